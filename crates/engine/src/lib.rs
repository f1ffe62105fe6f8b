//! What the operations need of a store, as small traits, and the values that cross them.
//!
//! Operations know these traits and no adapter; adapters implement these traits and know no operation; the binary hands the one to the
//! other. Documents cross as whole batches of raw bytes ([`DocumentBatch`]): nobody here decodes them.

mod accounts;
mod backfill;
mod changes;
mod cluster;
mod digest;
mod documents;
mod indexes;
mod init;
mod inspection;
mod keyfile;
mod keyserver;
mod keyspace;
mod lens;
mod literal;
mod logical;
mod metadata;
mod migrations;
mod part;
mod probe;
mod references;
mod rehearsal;
mod relational;
mod replication;
mod scratch;
mod seeds;
mod wal;

pub use accounts::{AccountKind, AccountMerge, AccountName, AccountStore, Accounts};
pub use backfill::{
    Backfill, BackfillBody, BackfillChange, BackfillClaim, BackfillHold, BackfillLook, BackfillRemains,
    BackfillRun, BackfillStatus, BackfillStep, BackfillStore, BackfillTrial, ClaimFor, FieldChange,
    ImportedChange, TrialWay, UndoPart, UndoneStep,
};
pub use changes::{
    ChangeAnchor, ChangeBatch, ChangeCounts, ChangeLogFacts, ChangeReplay, ChangeSource, ChangeStream,
    ChangeSurvey, CollectionIdentity, ContinuityBreak, Followed, PointCollection, ReplayTarget, Replayed,
    Replayer, StoredCollection, Surveyed, Unidentified, Until,
};
pub use cluster::{
    BackupBeginning, BackupEnding, BackupEvent, BaseBackup, BaseBackupRequest, BaseBackupSource,
    CheckpointPace, EarlierBackup, FileChecksum, LinkChoice, LinkCompression, Tablespace,
};
pub use digest::{DocumentDigest, ParseDigestError};
pub use documents::{
    CollectionInfo, CollectionKind, Consistency, DocumentBatch, DocumentFailure, DocumentSink,
    DocumentSource, DocumentStream, FrameError, LoadOutcome, Loader, Namespace, PreparedScan, Pressure,
    PressureGauge, ScanRange, ScanSetback, ServerFacts, Snapshot, SnapshotRequest, UNIDENTIFIED,
    data_namespace, document_frames,
};
pub use indexes::{
    AggregateRequest, BuildPhase, CommitQuorum, DiskRoom, IndexBuild, IndexCatalog, IndexChange,
    IndexControl, IndexUsage, IndexedCollection, MemberUsage, TtlMonitor, UniqueVerdict, UsageReport,
};
pub use init::{
    DocumentAccess, DocumentAct, DocumentInit, DocumentServer, GrantObject, KeyServerAct, KeyServerInit,
    Membership, PasswordMatch, Principal, Privilege, RelationalAct, RelationalGrant, RelationalInit,
    RoleAttributes, SeenCollection, SeenDatabase, SeenGrant, SeenKeyUser, SeenPrincipal, SeenRole,
    ServerIdentity, UserData, UserKeeping,
};
pub use inspection::{
    CacheUse, CollectionStatistics, Contention, CountRequest, FlowControl, IndexStatistics, Inspection,
    LockMode, LockQueue, LockRequest, LockWaits, OpenTransaction, OperationProgress, ParseSampleRateError,
    Profiler, ProfilerSettings, Recorded, RunningOperation, SampleRate, ServerProcess, SlowOperation,
    SlowOperations, SlowRequest, SlowSource, Tickets,
};
pub use keyfile::{KeyFile, KeyFileBeginning, KeyFileSource};
pub use keyserver::{
    CallText, ClientsLook, CommandCost, KeyServerControl, KeyServerInspection, KeyServerLook,
    KeyServerSettings, MemoryLook, MemoryParts, PersistenceLook, ReplicationLook, SlowCall, SlowCalls,
    TrafficLook,
};
pub use keyspace::{
    CarriedCount, CarriedKey, KeyCarrier, KeyKind, KeyPutting, KeyRecord, KeyRemoval, KeyScan,
    KeyScanRequest, KeySweep, KeyTaking, Keyspace, KeyspaceSize, ListedNames, SweepPlace, TakenKeys,
};
pub use lens::{ChangeLens, ChangeSight, SightKind};
pub use literal::{CommandValue, Literal};
pub use logical::{
    DatabaseDefinition, DatabaseFacts, DatabaseReset, LoadRequest, LogicalDump, LogicalLoad, LogicalSink,
    LogicalSource, WorkingDatabase,
};
pub use metadata::metadata_differences;
pub use migrations::{
    AloneOutcome, AloneWork, LockBlocker, LockHolder, MigrationFacts, MigrationRun, MigrationTarget,
    RecordedStep, RowWrite, StepEntry, StepTrace, TrackingLook, TransactionWork, WorkFailure, WorkLimits,
    WorkOutcome, WorkPlace, WorkRecord, WorkStart,
};
pub use part::{ServerPart, SlotRange};
pub use probe::{Probe, StoreFacts};
pub use references::{
    FoundRows, ReferenceInspection, ReferenceLook, ReferenceRule, SeenConstraint, SeenReference,
};
pub use rehearsal::{
    CatalogObject, CatalogScope, LiveBounds, Observation, RehearsalHost, RehearsalStage, Rehearsed,
    SeenBuild, SeenLock, ShadowContents, StatementFailure, TableHolder, TableLock, TableName, Told,
};
pub use relational::{
    Backend, BackendEnd, BackendId, Backends, HeldLock, RelationalInspection, SlotUse, Slots, SqlText,
    StatementCost, StatementCosts, StatementRequest, TableUse, WalFlow, WantedLock,
};
pub use replication::{
    Backlog, BegunFill, FillObstacle, FollowedReplication, KeptMarker, KeyServerName, KeyServerProgram,
    PrimaryAddress, ReplicaFacts, ReplicaFeed, ReplicaInvitation, ReplicaRoom, ReplicaTarget,
    ReplicationFacts, ReplicationFile, ReplicationPoint, ReplicationSource, ReplicationStream, WrittenAs,
};
pub use scratch::{
    RelationCheck, ScratchAnswer, ScratchHost, ScratchProgress, ScratchQuery, ScratchServer, ScratchTable,
};
pub use seeds::{
    CLAIM_SECONDS, NewcomerRule, SEED_BATCH_MAX, SeedClaim, SeedGround, SeedPlace, SeedRow, SeedStanding,
    SeedTarget, SeedWriting, SeedWritten,
};
pub use wal::{
    FollowWal, RestorePoint, SlotHealth, SlotRetention, TimelineHistory, WalEvent, WalPosition, WalSlot,
    WalSource, WalStream,
};

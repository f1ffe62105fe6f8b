//! The two forms of a dump: one archive, or a folder of files.

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use mainstay_archive::layout::{self, FileKind};
use mainstay_archive::{ArchiveWriter, Entry, EntryKind, Header, Role, WriteError};
use mainstay_engine::DocumentBatch;
use mainstay_model::{Error, ErrorKind, Result};

use super::output::{Output, failed};

/// A dump that is being written. Entries are named by their positions.
pub(super) enum Form {
    Archive(Archive),
    Directory(Directory),
}

impl Form {
    /// Takes documents of an entry.
    pub(super) async fn documents(&mut self, entry: usize, batch: DocumentBatch) -> Result<()> {
        match self {
            Self::Archive(archive) => archive.documents(entry, batch.bytes).await,
            Self::Directory(directory) => directory.documents(entry, batch.bytes).await,
        }
    }

    /// Completes an entry.
    pub(super) async fn close(&mut self, entry: usize) -> Result<()> {
        match self {
            Self::Archive(archive) => archive.close(entry).await,
            Self::Directory(directory) => directory.close(entry).await,
        }
    }

    /// Completes the dump; gives the archive's file, and how many bytes were written.
    pub(super) async fn end(self) -> Result<(Option<File>, u64)> {
        match self {
            Self::Archive(archive) => {
                archive.writer.end().map_err(refused)?;
                let written = archive.output.finish().await?;
                Ok((Some(written.file), written.bytes))
            }
            Self::Directory(directory) => Ok((None, directory.bytes)),
        }
    }
}

/// Everything in one stream.
pub(super) struct Archive {
    writer: ArchiveWriter,
    output: Output,
}

impl Archive {
    pub(super) async fn begin(
        file: File,
        gzip: Option<u8>,
        header: &Header,
        entries: &[Entry],
    ) -> Result<Self> {
        let (writer, prelude) = ArchiveWriter::begin(header, entries).map_err(refused)?;
        let mut output = Output::begin(file, gzip);
        output.write(prelude.into()).await?;
        Ok(Self { writer, output })
    }

    async fn documents(&mut self, entry: usize, bytes: Bytes) -> Result<()> {
        let before = self.writer.documents(entry, &bytes).map_err(refused)?;
        if !before.is_empty() {
            self.output.write(before.into()).await?;
        }
        self.output.write(bytes).await
    }

    async fn close(&mut self, entry: usize) -> Result<()> {
        let closing = self.writer.close(entry).map_err(refused)?;
        self.output.write(closing.into()).await
    }
}

fn refused(error: WriteError) -> Error {
    let kind = match error {
        WriteError::Size(..) => ErrorKind::Unsupported,
        WriteError::Unframed(_) => ErrorKind::Corrupt,
        WriteError::Order(..) => ErrorKind::Internal,
    };
    Error::new(kind, error.to_string()).with_hint("write this dump with `--directory DIR`")
}

/// A file for each collection, in a folder for each database.
pub(super) struct Directory {
    folder: PathBuf,
    gzip: Option<u8>,
    /// One for each entry: where its documents go, and the stream once there is one.
    files: Vec<(Option<PathBuf>, Option<Output>)>,
    bytes: u64,
}

impl Directory {
    /// Makes folders, metadata and the file that tells the server's version. `folder` exists and is empty.
    pub(super) async fn begin(
        folder: PathBuf,
        gzip: Option<u8>,
        header: &Header,
        entries: &[Entry],
    ) -> Result<Self> {
        let mut directory = Self { folder, gzip, files: Vec::with_capacity(entries.len()), bytes: 0 };
        let prelude =
            if gzip.is_some() { format!("{}.gz", layout::PRELUDE) } else { layout::PRELUDE.to_owned() };
        directory.put(directory.folder.join(prelude), layout::prelude_text(header).into()).await?;
        for entry in entries {
            let database = directory.folder.join(&entry.database);
            std::fs::create_dir_all(&database).map_err(|error| failed(&error))?;
            if !entry.metadata.is_empty() {
                let name = layout::file_name(&entry.collection, FileKind::Metadata, gzip.is_some());
                directory.put(database.join(name), entry.metadata.clone().into()).await?;
            }
            let documents = (entry.kind != EntryKind::View).then(|| {
                let name =
                    layout::file_name(&entry.data_collection(header), FileKind::Documents, gzip.is_some());
                if entry.role() == Role::Oplog {
                    directory.folder.join(layout::OPLOG)
                } else {
                    database.join(name)
                }
            });
            directory.files.push((documents, None));
        }
        Ok(directory)
    }

    async fn documents(&mut self, entry: usize, bytes: Bytes) -> Result<()> {
        match self.open(entry)? {
            Some(output) => output.write(bytes).await,
            None => Err(Error::new(ErrorKind::Internal, "a view has no documents")),
        }
    }

    async fn close(&mut self, entry: usize) -> Result<()> {
        self.open(entry)?;
        if let Some(output) = self.files[entry].1.take() {
            self.bytes += settled(output).await?;
        }
        Ok(())
    }

    /// The stream of an entry's documents; `None` for a view.
    fn open(&mut self, entry: usize) -> Result<Option<&mut Output>> {
        let (path, output) = &mut self.files[entry];
        if let (Some(path), None) = (&path, &output) {
            let file = File::create_new(path).map_err(|error| failed(&error))?;
            *output = Some(Output::begin(file, self.gzip));
        }
        Ok(output.as_mut())
    }

    /// Writes a small file.
    async fn put(&mut self, path: PathBuf, bytes: Bytes) -> Result<()> {
        let mut output = Output::begin(File::create_new(path).map_err(|error| failed(&error))?, self.gzip);
        output.write(bytes).await?;
        self.bytes += settled(output).await?;
        Ok(())
    }
}

/// Ends a file of the folder; it lasts when this returns.
async fn settled(output: Output) -> Result<u64> {
    let written = output.finish().await?;
    tokio::task::spawn_blocking(move || written.file.sync_all().map(|()| written.bytes))
        .await
        .map_err(|source| {
            Error::new(ErrorKind::Internal, "a file's end was not waited for").with_source(source)
        })?
        .map_err(|error| failed(&error))
}

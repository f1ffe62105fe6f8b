//! Whether a file of an append-only file is whole, told while its bytes pass by.
//!
//! A database file is walked key by key and its checksum compared; commands are cut, and their values passed over. Memory does not grow with
//! either. A file of commands may end within one, or within a transaction: whether that is damage depends on whether another file follows, which
//! whoever asks knows.

use bytes::Bytes;
use mainstay_engine::KeyspaceSize;
use mainstay_model::{Error, ErrorKind, Result};
use mainstay_rdb::stream::{Cutter, StreamFault};

use super::FileForm;
use crate::keyfile::judge::Judge;

/// What was found in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) bytes: u64,
    pub(super) torn_bytes: u64,
    pub(super) databases: Vec<KeyspaceSize>,
    pub(super) commands: u64,
}

/// A file that is passing by.
pub(super) enum FileJudge {
    Keys(Judge),
    Commands { cutter: Box<Cutter>, commands: u64, fault: Option<StreamFault> },
}

impl FileJudge {
    pub(super) fn begin(form: FileForm) -> Result<Self> {
        Ok(match form {
            FileForm::Keys => Self::Keys(Judge::begin()?),
            FileForm::Commands => {
                Self::Commands { cutter: Box::new(Cutter::of_file()), commands: 0, fault: None }
            }
        })
    }

    /// The next bytes.
    pub(super) async fn bytes(&mut self, piece: Bytes) {
        match self {
            Self::Keys(judge) => judge.bytes(piece).await,
            Self::Commands { .. } => self.cut(&piece),
        }
    }

    /// The next bytes, from a thread that may wait.
    pub(super) fn bytes_blocking(&mut self, piece: &[u8]) {
        match self {
            Self::Keys(judge) => judge.bytes_blocking(Bytes::copy_from_slice(piece)),
            Self::Commands { .. } => self.cut(piece),
        }
    }

    fn cut(&mut self, piece: &[u8]) {
        if let Self::Commands { cutter, commands, fault: fault @ None } = self {
            *fault = cutter.feed(piece, |_| *commands += 1).err();
        }
    }

    /// The verdict. Waits for a walk, which has at most a few pieces to go.
    ///
    /// # Errors
    /// `Corrupt` of a file that is damaged; `Unsupported` of one that holds what this version does not know.
    pub(super) fn end(self) -> Result<Found> {
        match self {
            Self::Keys(judge) => judge.end().map(|seen| Found {
                bytes: seen.bytes,
                databases: seen.databases,
                ..Found::default()
            }),
            Self::Commands { fault: Some(fault), .. } => {
                Err(Error::new(ErrorKind::Corrupt, fault.to_string()))
            }
            Self::Commands { cutter, commands, fault: None } => Ok(Found {
                bytes: cutter.position(),
                torn_bytes: cutter.position() - cutter.boundary(),
                commands,
                ..Found::default()
            }),
        }
    }
}

/// Refuses what no server would start from: a file that ends within a command, and is not the last.
pub(super) fn check_end(found: &Found, is_last: bool) -> Result<(), String> {
    match found.torn_bytes {
        torn if torn > 0 && !is_last => Err(format!(
            "it ends within a command, {torn} bytes behind the last whole one, and another file follows"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_end_within_a_command_is_damage_where_another_file_follows() {
        let whole = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$4\r\nPING\r\n";
        let judged = |bytes: &[u8]| {
            let mut judge = FileJudge::begin(FileForm::Commands).unwrap();
            bytes.chunks(7).for_each(|piece| judge.bytes_blocking(piece));
            judge.end()
        };
        let found = judged(whole).unwrap();
        assert_eq!((found.bytes, found.torn_bytes, found.commands), (whole.len() as u64, 0, 2));
        let torn = judged(&whole[..whole.len() - 3]).unwrap();
        assert_eq!((torn.torn_bytes, torn.commands), (11, 1));
        assert!(check_end(&torn, true).is_ok() && check_end(&found, false).is_ok());
        assert!(check_end(&torn, false).unwrap_err().contains("11 bytes"));
        let mut damaged = whole.to_vec();
        damaged[25] = b'x';
        assert!(judged(&damaged).unwrap_err().to_string().contains("offset"), "{:?}", judged(&damaged));
        assert_eq!(judged(b"").unwrap(), Found::default());
    }
}

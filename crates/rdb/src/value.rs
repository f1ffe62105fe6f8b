//! Passing over a value: its end is found by walking its parts, and the parts are counted.

use std::io::Read;

use crate::fault::Fault;
use crate::input::Input;
use crate::kind::{Encoding, FieldExpiry, Kind};

/// What was seen of a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Its elements: fields of a hash, entries of a stream, 1 for a string; `None` where the file does not say.
    pub(crate) elements: Option<u64>,
    /// The bytes of its strings, unpacked.
    pub(crate) data_bytes: u64,
}

/// A count that a packed value cannot hold.
const UNKNOWN: u64 = u16::MAX as u64;

/// Passes over a value.
pub(crate) fn pass<R: Read>(input: &mut Input<R>, kind: Kind, encoding: Encoding) -> Result<Passed, Fault> {
    Pass { input, seen: Passed::default() }.value(kind, encoding)
}

struct Pass<'p, R> {
    input: &'p mut Input<R>,
    seen: Passed,
}

impl<R: Read> Pass<'_, R> {
    fn value(mut self, kind: Kind, encoding: Encoding) -> Result<Passed, Fault> {
        self.seen.elements = match encoding {
            Encoding::Plain => {
                self.string()?;
                Some(1)
            }
            Encoding::Table if kind == Kind::Hash => Some(self.each(|pass| pass.strings(2))?),
            Encoding::Table => Some(self.each(Self::string)?),
            Encoding::ExpiringTable(expiry) => Some(self.expiring_table(expiry)?),
            Encoding::Listpack { entries } => self.listpack(entries)?,
            Encoding::ExpiringListpack => {
                // When the first of its fields expires.
                self.skip(8)?;
                self.listpack(3)?
            }
            Encoding::Ziplist { entries } => self.ziplist(entries)?,
            Encoding::Zipmap => self.zipmap()?,
            Encoding::Intset => Some(self.intset()?),
            Encoding::Ziplists => self.total(|pass| pass.ziplist(1))?,
            Encoding::Quicklist => self.total(Self::quicklist_node)?,
            Encoding::TextScores => Some(self.each(|pass| {
                pass.string()?;
                pass.text_score()
            })?),
            Encoding::Scores => Some(self.each(|pass| {
                pass.string()?;
                pass.skip(8)
            })?),
            Encoding::Stream(generation) => Some(self.stream(generation)?),
            Encoding::Module => {
                self.input.length()?;
                module_items(self.input)?;
                None
            }
        };
        Ok(self.seen)
    }

    fn skip(&mut self, count: u64) -> Result<(), Fault> {
        self.input.skip(count)
    }

    fn length(&mut self) -> Result<u64, Fault> {
        self.input.length()
    }

    fn lengths(&mut self, count: usize) -> Result<(), Fault> {
        (0..count).try_for_each(|_| self.length().map(drop))
    }

    fn string(&mut self) -> Result<(), Fault> {
        let bytes = self.input.skip_string()?;
        self.seen.data_bytes = self.seen.data_bytes.saturating_add(bytes);
        Ok(())
    }

    fn strings(&mut self, count: usize) -> Result<(), Fault> {
        (0..count).try_for_each(|_| self.string())
    }

    /// A count, and so many of what `one` passes over. Each takes a byte at least, so that a count beyond the file ends with the file.
    fn each(&mut self, mut one: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<u64, Fault> {
        let count = self.length()?;
        for _ in 0..count {
            one(self)?;
        }
        Ok(count)
    }

    /// The same, where each holds several elements.
    fn total(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<Option<u64>, Fault>,
    ) -> Result<Option<u64>, Fault> {
        let mut total = Some(0u64);
        self.each(|pass| {
            let here = one(pass)?;
            total = total.zip(here).map(|(total, here)| total.saturating_add(here));
            Ok(())
        })?;
        Ok(total)
    }

    /// Passes over a packed string of at least `N` bytes and gives its first `N`.
    fn packed<const N: usize>(&mut self, what: &'static str) -> Result<(u64, [u8; N]), Fault> {
        let string = self.input.string_front::<N>()?;
        self.seen.data_bytes = self.seen.data_bytes.saturating_add(string.bytes);
        let front = string.front().try_into().map_err(|_| Fault::Packed(what))?;
        Ok((string.bytes, front))
    }

    /// Four bytes of its length, two of the number of its entries.
    fn listpack(&mut self, entries_each: u64) -> Result<Option<u64>, Fault> {
        const WHAT: &str = "a listpack is not as long as it says";
        let (bytes, [a, b, c, d, low, high]) = self.packed::<6>(WHAT)?;
        if u64::from(u32::from_le_bytes([a, b, c, d])) != bytes {
            return Err(Fault::Packed(WHAT));
        }
        whole(u16::from_le_bytes([low, high]).into(), entries_each)
    }

    /// Four bytes of its length, four of where its last entry is, two of the number of its entries.
    fn ziplist(&mut self, entries_each: u64) -> Result<Option<u64>, Fault> {
        const WHAT: &str = "a ziplist is not as long as it says";
        let (bytes, [a, b, c, d, _, _, _, _, low, high]) = self.packed::<10>(WHAT)?;
        if u64::from(u32::from_le_bytes([a, b, c, d])) != bytes {
            return Err(Fault::Packed(WHAT));
        }
        whole(u16::from_le_bytes([low, high]).into(), entries_each)
    }

    /// One byte of the number of its pairs, where that fits.
    fn zipmap(&mut self) -> Result<Option<u64>, Fault> {
        let (_, [count]) = self.packed::<1>("a zipmap is empty")?;
        Ok((count < 254).then_some(count.into()))
    }

    /// Four bytes of the width of its numbers, four of how many they are.
    fn intset(&mut self) -> Result<u64, Fault> {
        const WHAT: &str = "a set of numbers is not as long as it says";
        let (bytes, [a, b, c, d, e, f, g, h]) = self.packed::<8>(WHAT)?;
        let [width, count] = [[a, b, c, d], [e, f, g, h]].map(|bytes| u64::from(u32::from_le_bytes(bytes)));
        if !matches!(width, 2 | 4 | 8) || 8 + width * count != bytes {
            return Err(Fault::Packed(WHAT));
        }
        Ok(count)
    }

    fn quicklist_node(&mut self) -> Result<Option<u64>, Fault> {
        match self.length()? {
            1 => self.string().map(|()| Some(1)),
            2 => self.listpack(1),
            _ => Err(Fault::Packed("a part of a list is neither an element nor a listpack")),
        }
    }

    fn text_score(&mut self) -> Result<(), Fault> {
        match self.input.byte()? {
            // Not a number, and the two infinities.
            253..=255 => Ok(()),
            digits => self.skip(digits.into()),
        }
    }

    fn expiring_table(&mut self, expiry: FieldExpiry) -> Result<u64, Fault> {
        match expiry {
            FieldExpiry::Relative => {
                // When the first of its fields expires.
                self.skip(8)?;
                self.each(|pass| {
                    pass.length()?;
                    pass.strings(2)
                })
            }
            FieldExpiry::Absolute => self.each(|pass| {
                pass.strings(2)?;
                pass.skip(8)
            }),
        }
    }

    /// Nodes, the counters, then the groups with what is pending.
    fn stream(&mut self, generation: u8) -> Result<u64, Fault> {
        self.each(|pass| pass.strings(2))?;
        let entries = self.length()?;
        // The last id; from the second generation on the first one, the greatest deleted one, and how many were ever added.
        self.lengths(if generation >= 2 { 7 } else { 2 })?;
        self.each(|pass| pass.group(generation))?;
        Ok(entries)
    }

    fn group(&mut self, generation: u8) -> Result<(), Fault> {
        const ID_BYTES: u64 = 16;
        self.string()?;
        self.lengths(if generation >= 2 { 3 } else { 2 })?;
        self.each(|pass| {
            pass.skip(ID_BYTES + 8)?;
            pass.lengths(1)
        })?;
        self.each(|pass| {
            pass.string()?;
            pass.skip(if generation >= 3 { 16 } else { 8 })?;
            pass.each(|pass| pass.skip(ID_BYTES)).map(drop)
        })?;
        Ok(())
    }
}

/// The elements of a packed value of `entries` entries.
fn whole(entries: u64, each: u64) -> Result<Option<u64>, Fault> {
    if entries == UNKNOWN {
        return Ok(None);
    }
    if !entries.is_multiple_of(each) {
        return Err(Fault::Packed("its entries do not make whole elements"));
    }
    Ok(Some(entries / each))
}

/// Passes over what a module wrote, up to its end mark.
pub(crate) fn module_items<R: Read>(input: &mut Input<R>) -> Result<(), Fault> {
    loop {
        match input.length()? {
            0 => return Ok(()),
            // A number, with sign or without.
            1 | 2 => drop(input.length()?),
            3 => input.skip(4)?,
            4 => input.skip(8)?,
            5 => drop(input.skip_string()?),
            _ => return Err(Fault::Packed("a module's item is of no known kind")),
        }
    }
}

//! Bytes of a file by position: pieces are read where they are needed, never the whole.
//!
//! What lies beyond the end is none, so a size in a file never leads to an allocation that the
//! file itself could not fill.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// A file with its length and a buffer.
pub(super) struct Input {
    reader: BufReader<File>,
    at: u64,
    length: u64,
}

impl Input {
    /// # Errors
    /// When the file cannot be asked for its length.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut reader = BufReader::with_capacity(64 << 10, file);
        reader.seek(SeekFrom::Start(0))?;
        Ok(Self { reader, at: 0, length })
    }

    /// Bytes of the whole file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// `count` bytes from `at` on; none where the file ends before.
    ///
    /// # Errors
    /// When reading fails.
    pub(super) fn bytes(&mut self, at: u64, count: usize) -> io::Result<Option<Vec<u8>>> {
        if !self.holds(at, count) {
            return Ok(None);
        }
        let mut bytes = vec![0; count];
        Ok(self.fill(at, &mut bytes)?.then_some(bytes))
    }

    /// `N` bytes from `at` on; none where the file ends before.
    ///
    /// # Errors
    /// When reading fails.
    pub(super) fn array<const N: usize>(&mut self, at: u64) -> io::Result<Option<[u8; N]>> {
        if !self.holds(at, N) {
            return Ok(None);
        }
        let mut bytes = [0; N];
        Ok(self.fill(at, &mut bytes)?.then_some(bytes))
    }

    /// The reader itself, from the start of the file.
    ///
    /// # Errors
    /// When the position cannot be changed.
    pub(super) fn rewound(&mut self) -> io::Result<&mut BufReader<File>> {
        self.at = 0;
        self.reader.seek(SeekFrom::Start(0))?;
        Ok(&mut self.reader)
    }

    fn holds(&self, at: u64, count: usize) -> bool {
        at.checked_add(count as u64).is_some_and(|end| end <= self.length)
    }

    /// Whether the bytes were there: a file may have shrunk since it was opened.
    fn fill(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<bool> {
        // Relative, so that what is buffered stays so. Both positions lie within the file.
        self.reader.seek_relative(at as i64 - self.at as i64)?;
        self.at = at;
        match self.reader.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.length = self.length.min(at);
                self.at = 0;
                self.reader.seek(SeekFrom::Start(0))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

//! From bytes as they were served to a module: plain, compressed (gzip, zstd), in a tar archive.
//!
//! Everything is read as a stream and nothing is written: an archive's paths, links and devices are
//! only ever looked at. What is unpacked has a limit, whatever the archive promises.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use tar::{Archive, EntryType};

use wayline_model::defence::stands;

use crate::inspect::MAX_MODULE_BYTES;

/// Bytes that come out of one compressed body at the most, files that are skipped included.
const MAX_UNPACKED_BYTES: u64 = 4 * MAX_MODULE_BYTES as u64;

/// Compression within compression, as with `tar.gz` and a module that was compressed before.
const MAX_DEPTH: usize = 4;

const WASM: &[u8] = b"\0asm";
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const TAR: (usize, &[u8]) = (257, b"ustar");

/// Which file of an archive is the module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wanted {
    /// The only one that is Wasm.
    Only,
    /// The one called `plugin.wasm`, in whatever folder (Istio).
    Plugin,
}

/// The module in `bytes`; the error says why there is none.
pub(crate) fn module_in(bytes: Bytes, wanted: Wanted) -> Result<Bytes, String> {
    if bytes.starts_with(WASM) {
        return Ok(bytes);
    }
    read(Box::new(Cursor::new(bytes)), wanted, 0).map(Bytes::from)
}

fn read(mut stream: Box<dyn Read + '_>, wanted: Wanted, depth: usize) -> Result<Vec<u8>, String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "it is compressed more than {MAX_DEPTH} times; compress it once"
        ));
    }
    let mut head = Vec::new();
    (&mut stream)
        .take(512)
        .read_to_end(&mut head)
        .map_err(|error| broken(&error))?;
    let is_tar = head.get(TAR.0..).is_some_and(|it| it.starts_with(TAR.1));
    let start: [bool; 3] = [WASM, GZIP, ZSTD].map(|magic| head.starts_with(magic));
    let whole = Cursor::new(head).chain(stream);
    match start {
        [true, ..] => all_of(whole),
        [_, true, _] => {
            let plain = MultiGzDecoder::new(BufReader::new(whole));
            read(Box::new(Limited::new(plain)), wanted, depth + 1)
        }
        [.., true] => {
            let plain = ZstdFrames::new(Box::new(BufReader::new(whole)));
            read(Box::new(Limited::new(plain)), wanted, depth + 1)
        }
        _ if is_tar => search(whole, wanted, depth),
        _ => Err(
            "what is there is neither Wasm nor gzip, zstd or a tar archive; serve the .wasm file that the compiler wrote"
                .to_owned(),
        ),
    }
}

/// Finds the module in a tar archive, and makes sure that there is no other.
fn search(stream: impl Read, wanted: Wanted, depth: usize) -> Result<Vec<u8>, String> {
    let mut archive = Archive::new(stream);
    let mut found = None;
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let entry = entry.map_err(|error| broken(&error))?;
        let path = entry.path_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next();
        let kind = entry.header().entry_type();
        let regular = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let module = match wanted {
            Wanted::Plugin if name != Some(b"plugin.wasm") => None,
            Wanted::Plugin if !regular && stands("archive-files-only") => {
                return Err(
                    "plugin.wasm in its archive is no ordinary file; pack the file itself"
                        .to_owned(),
                );
            }
            Wanted::Plugin => Some(read(Box::new(entry), wanted, depth + 1)?),
            Wanted::Only if !regular => None,
            Wanted::Only => only(entry)?,
        };
        if module.is_some() && found.is_some() && stands("archive-one-module") {
            return Err(match wanted {
                Wanted::Plugin => "its archive has several files plugin.wasm; pack one",
                Wanted::Only => "its archive has several modules; pack one",
            }
            .to_owned());
        }
        found = found.or(module);
    }
    found.ok_or_else(|| {
        match wanted {
            Wanted::Plugin => "its archive has no file plugin.wasm; give the module that name",
            Wanted::Only => "its archive has no file that is Wasm; pack the .wasm file",
        }
        .to_owned()
    })
}

/// The file, if it is Wasm.
fn only(mut file: impl Read) -> Result<Option<Vec<u8>>, String> {
    let mut head = Vec::new();
    (&mut file)
        .take(WASM.len() as u64)
        .read_to_end(&mut head)
        .map_err(|error| broken(&error))?;
    if head != WASM {
        return Ok(None);
    }
    all_of(Cursor::new(head).chain(file)).map(Some)
}

/// A module, within its limit.
fn all_of(stream: impl Read) -> Result<Vec<u8>, String> {
    let mut module = Vec::new();
    stream
        .take(MAX_MODULE_BYTES as u64 + 1)
        .read_to_end(&mut module)
        .map_err(|error| broken(&error))?;
    if module.len() > MAX_MODULE_BYTES && stands("module-length") {
        return Err(format!(
            "the module is longer than the {MAX_MODULE_BYTES} bytes that are allowed; build it in release mode and strip its debug information"
        ));
    }
    Ok(module)
}

fn broken(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return format!(
            "it unpacks to more than {MAX_UNPACKED_BYTES} bytes; pack the module alone"
        );
    }
    format!("it can not be unpacked ({error}); build and push it again")
}

/// What comes out of a decompressor, which fails when it is too much.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R> Limited<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            left: MAX_UNPACKED_BYTES,
        }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .or_else(|| (!stands("unpack-limit")).then_some(0))
            .ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// Zstandard frames one after the other; ruzstd decodes one.
struct ZstdFrames<'a> {
    state: Frame<'a>,
}

type Source<'a> = Box<dyn BufRead + 'a>;

enum Frame<'a> {
    Between(Source<'a>),
    Within(Box<StreamingDecoder<Source<'a>, FrameDecoder>>),
    Broken,
}

impl<'a> ZstdFrames<'a> {
    fn new(source: Source<'a>) -> Self {
        Self {
            state: Frame::Between(source),
        }
    }
}

impl Read for ZstdFrames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, Frame::Broken) {
                Frame::Broken => return Err(io::ErrorKind::InvalidData.into()),
                Frame::Within(mut decoder) => match decoder.read(buffer)? {
                    0 => self.state = Frame::Between(decoder.into_inner()),
                    read => {
                        self.state = Frame::Within(decoder);
                        return Ok(read);
                    }
                },
                Frame::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        self.state = Frame::Between(source);
                        return Ok(0);
                    }
                    self.state = next_frame(source)?;
                }
            }
        }
    }
}

/// Opens the next frame, or steps over one that has no data.
fn next_frame(mut source: Source<'_>) -> io::Result<Frame<'_>> {
    // A decoder that finds a frame without data gives its source back to nobody, so that the head of
    // such a frame is read here.
    let mut head = [0; 8];
    let start = source.fill_buf()?;
    let skippable =
        start.len() >= 4 && start[1..4] == [0x2a, 0x4d, 0x18] && start[0] & 0xf0 == 0x50;
    if skippable {
        source.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]).into();
        let skipped = io::copy(&mut (&mut source).take(length), &mut io::sink())?;
        if skipped < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        return Ok(Frame::Between(source));
    }
    match StreamingDecoder::new_with_max_window_size(source, MAX_MODULE_BYTES as u64) {
        Ok(decoder) => Ok(Frame::Within(Box::new(decoder))),
        Err(error) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            error.to_string(),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use tar::{Builder, Header};

    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0 and so on";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, bytes: &[u8]) {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Past the builder's own care for paths.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, bytes).unwrap();
    }

    fn tar(files: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        for (kind, path, bytes) in files {
            entry(&mut archive, *kind, path, bytes);
        }
        archive.into_inner().unwrap()
    }

    fn found(bytes: impl Into<Bytes>, wanted: Wanted) -> Result<Bytes, String> {
        module_in(bytes.into(), wanted)
    }

    #[test]
    fn modules_are_found_however_they_are_packed() {
        let file = EntryType::Regular;
        let archive = tar(&[
            (EntryType::Directory, "lib/", b""),
            (file, "README.md", b"hello"),
            (file, "lib/plugin.wasm", MODULE),
        ]);
        let mut frames = zstd(&archive[..700]);
        frames.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        frames.extend(zstd(&archive[700..]));
        let mut members = gzip(&archive[..100]);
        members.extend(gzip(&archive[100..]));
        for packed in [
            MODULE.to_vec(),
            gzip(MODULE),
            zstd(MODULE),
            archive.clone(),
            gzip(&archive),
            zstd(&archive),
            frames,
            members,
            gzip(&gzip(MODULE)),
            gzip(&tar(&[(file, "plugin.wasm", MODULE)])),
        ] {
            for wanted in [Wanted::Only, Wanted::Plugin] {
                assert_eq!(found(packed.clone(), wanted).unwrap(), MODULE);
            }
        }
        let packed_twice = tar(&[(file, "plugin.wasm", &gzip(MODULE))]);
        assert_eq!(found(packed_twice, Wanted::Plugin).unwrap(), MODULE);
    }

    #[test]
    fn exactly_one_ordinary_file_is_the_module() {
        use EntryType::{Block, Fifo, GNUSparse, Link, Regular, Symlink};
        for kind in [Symlink, Link, Fifo, Block, GNUSparse] {
            let archive = tar(&[(kind, "plugin.wasm", b"")]);
            assert!(found(archive, Wanted::Plugin).is_err(), "{kind:?}");
        }
        let two = tar(&[
            (Regular, "plugin.wasm", MODULE),
            (Regular, "a/plugin.wasm", MODULE),
        ]);
        assert!(
            found(two.clone(), Wanted::Plugin)
                .unwrap_err()
                .contains("several")
        );
        assert!(found(two, Wanted::Only).unwrap_err().contains("several"));
        let shadowed = tar(&[
            (Regular, "plugin.wasm", MODULE),
            (Symlink, "plugin.wasm", b""),
        ]);
        assert!(found(shadowed, Wanted::Plugin).is_err());
        for other in [
            "other.wasm",
            "plugin.wasm.bak",
            ".wh.plugin.wasm",
            "plugin.wasm/x",
        ] {
            let archive = tar(&[(Regular, other, MODULE)]);
            assert!(
                found(archive, Wanted::Plugin)
                    .unwrap_err()
                    .contains("no file"),
                "{other}"
            );
        }
        // Nothing is written anywhere, so that a path says nothing but a name.
        for path in ["../../plugin.wasm", "/etc/plugin.wasm"] {
            let archive = tar(&[(Regular, path, MODULE)]);
            assert_eq!(found(archive, Wanted::Plugin).unwrap(), MODULE, "{path}");
        }
        assert!(found(tar(&[(Regular, "a.txt", b"x")]), Wanted::Only).is_err());
    }

    #[test]
    fn bombs_and_torn_archives_are_refused() {
        // A gibibyte of nothing in a mebibyte.
        let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
        let mut header = Header::new_ustar();
        header.set_path("filler").unwrap();
        header.set_size(1 << 30);
        header.set_cksum();
        bomb.write_all(header.as_bytes()).unwrap();
        for _ in 0..128 {
            bomb.write_all(&vec![0; 1 << 20]).unwrap();
        }
        let bomb = bomb.finish().unwrap();
        assert!(
            found(bomb, Wanted::Only)
                .unwrap_err()
                .contains("unpacks to more")
        );

        let mut long = MODULE.to_vec();
        long.resize(MAX_MODULE_BYTES + 1, 0);
        assert!(
            found(gzip(&long), Wanted::Only)
                .unwrap_err()
                .contains("longer")
        );
        let archive = tar(&[(EntryType::Regular, "plugin.wasm", &long)]);
        assert!(
            found(archive, Wanted::Plugin)
                .unwrap_err()
                .contains("longer")
        );

        let mut nested = MODULE.to_vec();
        for _ in 0..20 {
            nested = gzip(&nested);
        }
        assert!(found(nested, Wanted::Only).unwrap_err().contains("times"));

        let archive = tar(&[(
            EntryType::Regular,
            "plugin.wasm",
            &[MODULE, &[7; 4000]].concat(),
        )]);
        for whole in [gzip(&archive), zstd(&archive), archive] {
            for end in [20, whole.len() / 4] {
                assert!(found(whole[..end].to_vec(), Wanted::Plugin).is_err());
            }
        }
        for text in [&b""[..], b"<html>", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"] {
            assert!(found(text, Wanted::Only).is_err());
        }
    }
}

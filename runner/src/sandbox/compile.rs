//! Compiles components to machine code, once: later starts map it from a cache folder. Running it is left to
//! `instance`.
//!
//! wasmtime's own cache decompresses an artifact into private memory. This one maps the file, so that its
//! pages are shared with other processes and do not count as private memory. wasmtime checks the header of
//! what it maps, but not the code, so each artifact ends in a checksum that is compared first.

use super::Sandbox;
use crate::memory::ProcessMemory;
use crate::shortage;
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wasmparser::{Parser, Payload};
use wasmtime::component::Component;

/// A folder of compiled components that only this user can write.
#[derive(Debug, Clone)]
pub struct CompileCache {
    folder: PathBuf,
}

/// A component's machine code.
#[derive(Clone)]
pub struct Compiled {
    pub(super) component: Component,
    /// Time spent compiling; `None` if it came from the cache.
    pub compile_time: Option<Duration>,
}

impl CompileCache {
    /// Uses `folder`, and creates it if it does not exist.
    ///
    /// # Errors
    /// When it cannot be created, belongs to another user, or others may write to it: its files are executed,
    /// so a user who can write them can run code here.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        make_private_folder(folder).with_context(|| {
            format!(
                "cannot use the cache folder {}; name another with --cache-dir",
                folder.display()
            )
        })?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// The conventional folder: `$XDG_CACHE_HOME/skincell`, or `~/.cache/skincell`.
    #[must_use]
    pub fn default_folder() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        absolute("XDG_CACHE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".cache")))
            .map(|caches| caches.join("skincell"))
    }

    /// The path of an artifact. Its name is derived from the component's bytes and from all settings of
    /// wasmtime and the machine that determine the code.
    fn artifact(&self, sandbox: &Sandbox, wasm: &[u8]) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        sandbox.engine.precompile_compatibility_hash().hash(&mut hasher);
        let digest = Sha256::digest(wasm);
        self.folder.join(format!("{digest:x}-{:016x}.cwasm", hasher.finish()))
    }
}

impl Sandbox {
    /// Compiles `wasm`, which came from `path`, or maps it from `cache`. The process may use `budget` bytes,
    /// if there is a limit.
    ///
    /// # Errors
    /// When it is not a WebAssembly component, or compiling it may take more than the budget. A failing cache
    /// is a warning only.
    pub fn compile(
        &self,
        path: &Path,
        wasm: Vec<u8>,
        cache: Option<&CompileCache>,
        budget: Option<u64>,
    ) -> anyhow::Result<Compiled> {
        let artifact = cache.map(|cache| cache.artifact(self, &wasm));
        if let Some(component) = artifact.as_deref().and_then(|file| self.map(file)) {
            return Ok(Compiled { component, compile_time: None });
        }
        check_room(path, &wasm, budget)?;
        let start = Instant::now();
        let once = if artifact.is_some() { ", once" } else { "" };
        tracing::info!(file = %path.display(), "compiling the component{once}");
        let code =
            self.engine.precompile_component(&wasm).map_err(anyhow::Error::from).with_context(
                || format!("{} is not a component that this host can run", path.display()),
            )?;
        drop(wasm);
        let compile_time = Some(start.elapsed());
        if let Some(file) = &artifact {
            match write_atomically(file, &code) {
                Ok(()) => {
                    if let Some(component) = self.map(file) {
                        return Ok(Compiled { component, compile_time });
                    }
                }
                Err(error) => {
                    tracing::warn!(file = %file.display(), "cannot write to the compile cache: {error}");
                }
            }
        }
        let component = self.adopt(&code)?;
        Ok(Compiled { component, compile_time })
    }

    /// Maps an artifact; `None` if there is none or it cannot be used.
    fn map(&self, artifact: &Path) -> Option<Component> {
        match is_undamaged(artifact) {
            Ok(true) => {}
            Ok(false) => {
                let file = artifact.display();
                tracing::warn!(%file, "a cached component is damaged; compiling it again");
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %artifact.display(), "a cached component is ignored: {error}");
                return None;
            }
        }
        #[expect(unsafe_code, reason = "mapping machine code is what the cache is for")]
        // SAFETY: the file was written by `write_atomically` below, from code that this same version of
        // wasmtime compiled with this configuration (its name holds both hashes, and wasmtime checks its own
        // header again), and its checksum is right. It is never changed in place, only renamed into a folder
        // that `make_private_folder` has found to be writable by this user alone.
        let mapped = unsafe { Component::deserialize_file(&self.engine, artifact) };
        mapped
            .inspect_err(|error| {
                tracing::warn!(file = %artifact.display(), "a cached component is ignored: {error}");
            })
            .ok()
    }

    /// Loads code that was compiled a moment ago.
    fn adopt(&self, code: &[u8]) -> anyhow::Result<Component> {
        #[expect(unsafe_code, reason = "the bytes come from our own compiler call")]
        // SAFETY: `code` is what `precompile_component` of this same engine has just returned.
        let component = unsafe { Component::deserialize(&self.engine, code) };
        Ok(component?)
    }
}

#[cfg(unix)]
fn make_private_folder(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = std::fs::metadata(folder)?;
    // A new file shows this process's user without a call to libc.
    let us = tempfile::tempfile_in(folder)?.metadata()?.uid();
    if found.uid() != us {
        bail!(
            "it belongs to user {}, not to user {us}; choose another with --cache-dir",
            found.uid()
        );
    }
    if found.mode() & 0o022 != 0 {
        bail!(
            "others may write to it (mode {:o}), and its files are executed; chmod 700 it",
            found.mode() & 0o777
        );
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_private_folder(folder: &Path) -> anyhow::Result<()> {
    Ok(std::fs::create_dir_all(folder)?)
}

/// Bytes that compiling takes for each byte of code, and for each byte of the whole component: somewhat more
/// than components of componentize-js (9 MB of code, 12 MB in all: a peak of 314 MB) and componentize-py
/// (7 and 25 MB: 375 MB) were seen to take.
const FOR_CODE: u64 = 22;
const FOR_ALL: u64 = 9;

/// Refuses a component if compiling it may take the process beyond `budget`.
fn check_room(path: &Path, wasm: &[u8], budget: Option<u64>) -> anyhow::Result<()> {
    let Some(budget) = budget else { return Ok(()) };
    let compiling = code_bytes(wasm) * FOR_CODE + wasm.len() as u64 * FOR_ALL;
    let needed = ProcessMemory::now().private_bytes.saturating_add(compiling);
    if needed > budget {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        bail!(
            "compiling {} may take {} MiB, and the memory limit is {} MiB; start it once with a larger \
             --memory-limit and the same --cache-dir: later starts compile nothing",
            path.display(),
            mib(needed),
            mib(budget)
        );
    }
    Ok(())
}

/// Bytes of code in all modules of a component. What cannot be parsed has none; compiling it says what is
/// wrong.
fn code_bytes(wasm: &[u8]) -> u64 {
    let payloads = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    let sizes = payloads.map(|payload| match payload {
        Payload::CodeSectionStart { size, .. } => u64::from(size),
        _ => 0,
    });
    sizes.sum()
}

/// Bytes of the checksum that follows the code in an artifact: a CRC-32, little-endian. It detects damage by
/// a disk or a copy. It is no protection against a user who may write to the folder; the folder's permissions
/// are.
const CHECKSUM: usize = 4;

/// Whether an artifact's checksum is right.
fn is_undamaged(path: &Path) -> io::Result<bool> {
    shortage::descriptor()?;
    let file = File::open(path)?;
    let Some(length) = file.metadata()?.len().checked_sub(CHECKSUM as u64) else {
        return Ok(false);
    };
    // Read piece by piece: pages touched in a mapping would count as memory, and most code never runs.
    let mut code = BufReader::with_capacity(64 << 10, file).take(length);
    let mut hasher = crc32fast::Hasher::new();
    loop {
        let piece = code.fill_buf()?;
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
        let read = piece.len();
        code.consume(read);
    }
    let mut kept = [0; CHECKSUM];
    code.into_inner().read_exact(&mut kept)?;
    Ok(hasher.finalize() == u32::from_le_bytes(kept))
}

/// Writes an artifact so that readers see all of it or none.
fn write_atomically(path: &Path, code: &[u8]) -> io::Result<()> {
    shortage::descriptor()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, code)?;
    io::Write::write_all(&mut file, &crc32fast::hash(code).to_le_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::{check_room, code_bytes, is_undamaged, write_atomically};
    use std::path::Path;

    #[test]
    fn a_flipped_byte_or_a_missing_end_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("code");
        let code: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        let artifact = |code: &[u8]| {
            write_atomically(&path, code).unwrap();
            std::fs::read(&path).unwrap()
        };
        let whole = artifact(&code);
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            is_undamaged(&path).unwrap()
        };
        assert!(check(&whole) && check(&artifact(b"")));
        for place in [0, 65_535, 65_536, 199_999, 200_003] {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            assert!(!check(&flipped), "{place}");
        }
        assert!(!check(&whole[..whole.len() - 1]) && !check(b"abc") && !check(b""));
        assert!(is_undamaged(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_component_whose_compilation_has_no_room_is_refused_with_the_figure() {
        let mut module = wasm_encoder::Module::new();
        let mut functions = wasm_encoder::FunctionSection::new();
        functions.function(0);
        let mut code = wasm_encoder::CodeSection::new();
        code.raw(&[0; 1 << 20]);
        module.section(&functions).section(&code);
        let mut component = wasm_encoder::Component::new();
        component.section(&wasm_encoder::ModuleSection(&module));
        let wasm = component.finish();
        assert_eq!(code_bytes(&wasm) >> 20, 1);
        let check = |budget| check_room(Path::new("c.wasm"), &wasm, budget);
        assert!(check(None).is_ok() && check(Some(16 << 30)).is_ok());
        let refusal = check(Some(20 << 20)).unwrap_err().to_string();
        assert!(
            refusal.contains("c.wasm may take") && refusal.contains("limit is 20 MiB"),
            "{refusal}"
        );
    }
}

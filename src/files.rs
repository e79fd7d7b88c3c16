//! Files that are either whole or absent.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Names of temporary files.
const PREFIX: &str = ".diffuse-";
const SUFFIX: &str = ".tmp";

/// Replaces the file at `path` by `bytes`, or leaves it as it was.
///
/// The bytes go to a temporary name in the same directory, are synced, then renamed; the temporary file is removed on
/// any error, a full disk included. Missing parent directories are created. A symbolic link stays, its target is
/// replaced; a device or a pipe, `/dev/stdout` too, is written to as it is.
///
/// # Errors
///
/// [`Error::File`], naming `path`, if the place can't be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(path, &[bytes])
}

/// As [`write_atomic`] of what stands in several places, one behind the other.
///
/// # Errors
///
/// As [`write_atomic`].
pub fn write_parts(path: &Path, parts: &[&[u8]]) -> Result<()> {
    write(path, parts).map_err(|error| Error::file(path, problem(&error)))
}

/// The environment variable that names another directory for what is kept between runs.
pub const CACHE_DIRECTORY: &str = "DIFFUSE_CACHE_DIR";

/// Where things are kept between runs: what [`CACHE_DIRECTORY`] names, or the user's cache directory, if there is one.
pub fn cache_directory() -> Option<PathBuf> {
    let named = std::env::var_os(CACHE_DIRECTORY).map(PathBuf::from);
    named.or_else(|| dirs::cache_dir().map(|directory| directory.join("diffuse")))
}

/// A file without a name, for what is too large for memory: in the directory for what is kept, or among temporary files. It goes
/// when it is closed, however the process ends.
///
/// # Errors
/// If there is no place for one.
pub fn scratch() -> io::Result<File> {
    let directory = cache_directory().unwrap_or_else(std::env::temp_dir);
    fs::create_dir_all(&directory)?;
    tempfile::tempfile_in(directory)
}

/// Refuses to begin with what takes more `bytes` than the disk of `directory` has, as far as the system tells.
///
/// # Errors
/// [`Error::File`] says how much there is.
pub fn check_room(directory: &Path, bytes: u64) -> Result<()> {
    match fs4::available_space(directory) {
        Ok(room) if room < bytes => {
            let [room, bytes] = [room, bytes].map(|bytes| bytes as f64 / (1 << 20) as f64);
            Err(Error::file(
                directory,
                format!("{room:.1} MiB are free on this disk and {bytes:.1} are needed: free some space"),
            ))
        }
        _ => Ok(()),
    }
}

/// When the file or directory at `path` changed last; none if it can't be seen.
pub fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|data| data.modified()).ok()
}

/// `path` without links, as far as it is there already.
pub fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let found = whole.ancestors().find_map(|there| Some((there.canonicalize().ok()?, whole.strip_prefix(there).ok()?)));
    let Some((mut there, rest)) = found else { return whole };
    for part in rest.components() {
        match part {
            Component::ParentDir => _ = there.pop(),
            part => there.push(part),
        }
    }
    there
}

/// What to say of a file that is the text of Git LFS in the place of a large one, as clones without it have them.
pub fn lfs_pointer(bytes: &[u8]) -> Option<&'static str> {
    let is_pointer = bytes.starts_with(b"version https://git-lfs");
    is_pointer.then_some("a pointer of Git LFS, not the file itself, which `git lfs pull` gets")
}

/// Whether [`write_atomic`] could write there, as far as that can be said beforehand: before the work is done.
///
/// # Errors
/// As [`write_atomic`].
pub fn check_writable(path: &Path) -> Result<()> {
    let check = || {
        match fs::metadata(path) {
            Ok(old) if old.is_dir() => return Err(ErrorKind::IsADirectory.into()),
            Ok(old) if !old.is_file() => return Ok(()),
            _ if path.file_name().is_none() => return Err(ErrorKind::InvalidFilename.into()),
            _ => {}
        }
        // The nearest directory that there is: those below it would be made.
        let mut directories = path.ancestors().skip(1).map(|up| if up == Path::new("") { Path::new(".") } else { up });
        let directory = directories.find(|directory| directory.exists()).unwrap_or(Path::new("."));
        if !directory.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        create_hidden(directory)?.close()
    };
    check().map_err(|error: io::Error| Error::file(path, problem(&error)))
}

/// Makes what `write` writes into a new directory the one at `path`, whole or not at all; the one that was there goes.
///
/// It is written under a temporary name beside `path`, then renamed. A process that is killed between two renames leaves
/// no directory at `path`, and both under temporary names.
///
/// # Errors
/// Of `write`; [`Error::File`], naming `path`, if the place can't be written.
pub fn replace_directory(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let named = |error: io::Error| Error::file(path, problem(&error));
    let parent = directory_of(path);
    create_directory(parent).map_err(named)?;
    // It goes if this fails.
    let mut fresh = hidden().tempdir_in(parent).map_err(named)?;
    write(fresh.path())?;
    let old = if path.exists() { Some(set_aside(path).map_err(named)?) } else { None };
    if let Err(error) = rename_in(parent, fresh.path(), path) {
        // The error that led here is the one to report.
        old.iter().for_each(|old| drop(rename_in(parent, old, path)));
        return Err(named(error));
    }
    fresh.disable_cleanup(true);
    old.map_or(Ok(()), |old| fs::remove_dir_all(old).map_err(named))
}

/// Removes a directory, if there is one, so that nobody ever finds a part of it at `path`.
///
/// # Errors
/// [`Error::File`] if it can't be removed.
pub fn remove_directory(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    set_aside(path).and_then(fs::remove_dir_all).map_err(|error| Error::file(path, problem(&error)))
}

/// Renames `path` to a new hidden name beside it.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let directory = directory_of(path);
    let moved = hidden().make_in(directory, |aside| match aside.symlink_metadata() {
        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
        // Parts must not come back under the old name when the power fails.
        Err(_) => rename_in(directory, path, aside),
    })?;
    Ok(moved.into_temp_path().keep()?)
}

/// Where `path` lies.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    if path == Path::new("/dev/stdout") {
        // It may lead to a plain file, which a new one in its place would hide from whoever reads it.
        let mut stdout = io::stdout().lock();
        return write_all(&mut stdout, parts).and_then(|()| stdout.flush());
    }
    match fs::metadata(path) {
        Ok(old) if old.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(old) if old.is_file() => replace(&fs::canonicalize(path)?, parts, Some(old.permissions())),
        // A rename would put a plain file in the place of the device.
        Ok(_) => write_all(&mut File::create(path)?, parts),
        Err(error) if error.kind() == ErrorKind::NotFound => replace(path, parts, None),
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, parts: &[&[u8]], permissions: Option<fs::Permissions>) -> io::Result<()> {
    if path.file_name().is_none() {
        return Err(ErrorKind::InvalidFilename.into());
    }
    let directory = directory_of(path);
    create_directory(directory)?;
    let (file, mut temporary) = create_hidden(directory)?.into_parts();
    fill(file, parts, permissions)?;
    // tempfile's own renaming syncs nothing.
    rename_in(directory, &temporary, path)?;
    temporary.disable_cleanup(true);
    Ok(())
}

/// A new file in `directory` that goes when it is dropped, open to those whom the user lets read new files.
fn create_hidden(directory: &Path) -> io::Result<NamedTempFile> {
    hidden().make_in(directory, |path| File::create_new(path))
}

/// Makes files and directories under a hidden name that is still free. The name does not grow with the name it stands for, which
/// may be as long as the file system allows.
fn hidden() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    builder
}

fn write_all(to: &mut dyn Write, parts: &[&[u8]]) -> io::Result<()> {
    parts.iter().try_for_each(|part| to.write_all(part))
}

fn fill(mut file: File, parts: &[&[u8]], permissions: Option<fs::Permissions>) -> io::Result<()> {
    write_all(&mut file, parts)?;
    if let Some(permissions) = permissions {
        file.set_permissions(permissions)?;
    }
    // Some file systems report a full disk only here.
    file.sync_all()
}

/// A write takes less time than this between two touches of its temporary file.
const ABANDONED: Duration = Duration::from_secs(600);

/// Removes temporary files and directories in `directory` that were left there because their process was killed: those that
/// nobody has written to for ten minutes. What can't be removed stays; it is in nobody's way.
pub fn remove_abandoned(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        let touched = entry.metadata().and_then(|metadata| metadata.modified());
        let age = touched.ok().and_then(|touched| touched.elapsed().ok());
        if is_ours && age.is_some_and(|age| age > ABANDONED) {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// Renames a file or directory, so that the new name is there when the power fails behind it.
///
/// # Errors
/// Of the system; it may be renamed, but not for certain, if that can't be synced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_in(directory_of(to), from, to)?;
    if directory_of(from) == directory_of(to) { Ok(()) } else { sync_directory(directory_of(from)) }
}

/// As [`rename`] within `directory`, however it is called in the two paths.
fn rename_in(directory: &Path, from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(directory)
}

/// Makes a directory and those above it that are missing, so that they are there when the power fails behind it.
///
/// # Errors
/// Of the system.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|up| *up != Path::new("") && !up.is_dir()).collect();
    fs::create_dir_all(path)?;
    missing.iter().try_for_each(|made| sync_directory(directory_of(made)))
}

/// As [`create_directory`], of one that nobody but its owner may look into, where the system knows owners; one that is there is closed.
///
/// # Errors
/// Of the system.
pub fn create_closed_directory(path: &Path) -> io::Result<()> {
    create_directory(path)?;
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Makes the names in a directory last.
fn sync_directory(directory: &Path) -> io::Result<()> {
    use ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(directory).and_then(|opened| opened.sync_all()) {
        // Some file systems sync no directories: this is as good as it gets there.
        Err(error) if [InvalidInput, PermissionDenied, Unsupported].contains(&error.kind()) => Ok(()),
        result => result,
    }
}

fn problem(error: &io::Error) -> String {
    let known = match error.kind() {
        ErrorKind::IsADirectory => "this is a directory; name a file",
        ErrorKind::NotADirectory => "a part of this path is a file, not a directory",
        ErrorKind::InvalidFilename => "this can't be the name of a file",
        ErrorKind::PermissionDenied => "permission denied; name a place that you may write",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only; name another place",
        ErrorKind::StorageFull => "the disk is full; free some space or name another place",
        ErrorKind::QuotaExceeded => "the disk quota is used up; free some space or name another place",
        _ => return format!("can't be written: {error}"),
    };
    known.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn creates_and_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/file");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new bytes").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new bytes");
        assert_eq!(names(path.parent().unwrap()), ["file"]);
        let longest = directory.path().join("n".repeat(255));
        write_atomic(&longest, b"").unwrap();
        assert_eq!(fs::read(&longest).unwrap(), b"");
    }

    #[test]
    fn what_killed_processes_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - 2 * ABANDONED;
        for name in [".diffuse-17-0.tmp", ".diffuse-notes", "old.tmp"] {
            File::create(directory.path().join(name)).unwrap().set_modified(old).unwrap();
        }
        // Somebody may be writing it.
        File::create(directory.path().join(".diffuse-18-0.tmp")).unwrap();
        let half = directory.path().join(".diffuse-17-1.tmp");
        fs::create_dir(&half).unwrap();
        File::create(half.join("file")).unwrap();
        #[cfg(unix)]
        File::open(&half).unwrap().set_modified(old).unwrap();
        #[cfg(not(unix))]
        fs::remove_dir_all(&half).unwrap();
        remove_abandoned(directory.path());
        remove_abandoned(&directory.path().join("nowhere"));
        assert_eq!(names(directory.path()), [".diffuse-18-0.tmp", ".diffuse-notes", "old.tmp"]);
    }

    #[test]
    fn directories_are_replaced_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("made/directory");
        replace_directory(&path, |fresh| write_atomic(&fresh.join("old"), b"")).unwrap();
        replace_directory(&path, |fresh| {
            // What was there is whole while the new one is written.
            assert!(names(&path) == ["old"] && fresh.parent() == path.parent());
            write_atomic(&fresh.join("new"), b"")
        })
        .unwrap();
        assert_eq!(names(&path), ["new"]);
        let failed = replace_directory(&path, |fresh| {
            write_atomic(&fresh.join("half"), b"")?;
            Err(Error::Interrupted)
        });
        assert!(matches!(failed, Err(Error::Interrupted)));
        assert_eq!((names(&path), names(path.parent().unwrap())), (vec!["new".into()], vec!["directory".into()]));
        remove_directory(&path).unwrap();
        remove_directory(&path).unwrap();
        assert!(names(path.parent().unwrap()).is_empty());
        let file = place.path().join("file");
        fs::write(&file, "kept").unwrap();
        let message = replace_directory(&file.join("x/y"), |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains("is a file, not a directory"), "{message}");
    }

    #[test]
    fn names_the_place_that_fails() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "kept").unwrap();
        let refused = |path: &Path, problem: &str| {
            let message = write_atomic(path, b"bytes").unwrap_err().to_string();
            assert!(message.starts_with(&path.display().to_string()), "{message}");
            assert!(message.contains(problem) && !message.contains('\n'), "{message}");
        };
        refused(directory.path(), "this is a directory");
        refused(&file.join("inside"), "is a file, not a directory");
        for path in [directory.path(), &file.join("inside/deep"), Path::new("")] {
            let beforehand = check_writable(path).unwrap_err().to_string();
            assert_eq!(beforehand, write_atomic(path, b"bytes").unwrap_err().to_string());
        }
        check_writable(&directory.path().join("new/place")).unwrap();
        refused(&file.join("inside/deep"), "is a file, not a directory");
        refused(Path::new(""), "can't be the name of a file");
        refused(&directory.path().join("n".repeat(256)), "can't be");
        assert_eq!(fs::read(&file).unwrap(), b"kept");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn keeps_links_and_permissions() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn reports_a_full_disk_and_leaves_devices() {
        use std::os::unix::fs::FileTypeExt;
        let full = Path::new("/dev/full");
        let message = write_atomic(full, b"bytes").unwrap_err().to_string();
        assert!(message.starts_with("/dev/full: the disk is full"), "{message}");
        assert!(fs::metadata(full).unwrap().file_type().is_char_device());
    }

    /// A write that fails halfway, as on a full disk: the test runs itself once more where files may have a few kilobytes.
    #[cfg(unix)]
    #[test]
    fn leaves_the_old_file_when_it_fails_halfway() {
        const PLACE: &str = "DIFFUSE_TEST_LIMITED_DIRECTORY";
        if let Some(directory) = std::env::var_os(PLACE) {
            let path = Path::new(&directory).join("file");
            let message = write_atomic(&path, &[1; 1 << 20]).unwrap_err().to_string();
            assert!(message.starts_with(&path.display().to_string()), "{message}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        // Without the trap the signal would end the process before the write returns.
        let output = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "files::tests::leaves_the_old_file_when_it_fails_halfway"])
            .env(PLACE, directory.path())
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && report.contains("1 passed"), "{report}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["file"]);
    }
}

//! What all targets share: an allocator that counts, a directory in memory, and which panics are faults.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The `memory_limit` that targets ask for.
pub const LIMIT: usize = 16 << 20;
/// What reading takes beside what the limit is of: buffers of files, tables of decoders, what waits to be decoded.
pub const BESIDE: usize = 48 << 20;

/// The system's allocator, which ends the process where live bytes pass a bound.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static BOUND: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn add(&self, bytes: usize) {
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if live > BOUND.load(Ordering::Relaxed) {
            // What follows allocates, too.
            let bound = BOUND.swap(usize::MAX, Ordering::Relaxed);
            eprintln!("{live} bytes are live, {bytes} of them new; the bound is {bound}");
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
            std::process::abort();
        }
    }
}

// SAFETY: all is the system's allocator's, with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if both were held, as they are where it moves.
        self.add(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `read`, which may hold so many bytes at once.
pub fn bounded<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    BOUND.store(LIVE.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    let value = read();
    BOUND.store(usize::MAX, Ordering::Relaxed);
    value
}

/// What a target does first: what is kept between runs goes to [`place`], and a panic of another crate is no fault where it is
/// caught. One that nobody catches ends the process in any case.
pub fn begin() {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var(diffuse::files::CACHE_DIRECTORY, place().join("cache")) };
    let is_own = |file: &str| !file.contains("/registry/") && !file.starts_with("/rustc/");
    let faults = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|place| is_own(place.file())) {
            // libFuzzer's, which ends the process.
            faults(panic);
        } else if std::env::var_os("FUZZ_TELL").is_some() {
            eprintln!("{panic}");
        }
    }));
}

/// A directory of this process, in memory where the system has such a place; it goes with the process if that ends by itself.
pub fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let place = parent.join(format!("diffuse-fuzz-{}", std::process::id()));
        fs::create_dir_all(&place).expect("a place");
        place
    })
}

/// Writes `bytes` to the file `name` in [`place`] and gives its path.
pub fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = place().join(name);
    fs::write(&path, bytes).expect("room");
    path
}

/// The two files that an input holds: its first two bytes are the length of the first.
pub fn two(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return (bytes, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()))
}

/// Reads what `source` names as training would, in images of 8x8 and as they are, within [`LIMIT`].
pub fn load(source: &Path) {
    use diffuse::data::{Want, load_parts};
    let source = source.to_str().expect("a path of ours");
    for want in [Want::of(Some((8, 8)), 1), Want::default()] {
        bounded(LIMIT + BESIDE, || {
            let (train, test) = match load_parts(source, &want.limited(LIMIT as u64)) {
                Ok(read) => read,
                Err(error) => return check_line(&error),
            };
            assert_eq!(train.images.len(), train.len() * (train.height * train.width * train.channels) as usize);
            assert!(!train.is_empty() && train.labels.iter().all(|label| (*label as usize) < train.classes.len()));
            test.map(|_| ()).unwrap_or_else(|error| check_line(&error));
        });
    }
}

/// An error is one line.
pub fn check_line(error: &impl std::fmt::Display) {
    let line = error.to_string();
    assert!(!line.contains('\n') && !line.is_empty(), "{line:?}");
}

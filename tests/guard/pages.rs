//! Buffers between pages without access.

use core::ops::{Deref, DerefMut};

/// Which end of a buffer is flush with a page without access.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Edge {
    Front,
    Back,
}

/// Elements between two pages without access.
pub struct Guarded<T> {
    map: *mut libc::c_void,
    bytes: usize,
    pub data: *mut T,
    len: usize,
}

fn page() -> usize {
    // SAFETY: it only reads a setting.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page has a size")
}

impl<T: Copy> Guarded<T> {
    /// A copy of `values` that can be written to.
    pub fn output(edge: Edge, values: &[T]) -> Self {
        let (page, size) = (page(), size_of_val(values));
        let inner = size.next_multiple_of(page).max(page);
        let bytes = inner + 2 * page;
        // SAFETY: new pages, of which only the inner ones can be touched; the elements lie within those, aligned, as a page is
        // aligned for every type here and an element's size is a multiple of its alignment.
        unsafe {
            let map =
                libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0);
            assert_ne!(map, libc::MAP_FAILED, "out of memory");
            let first = map.cast::<u8>().add(page);
            assert_eq!(libc::mprotect(first.cast(), inner, libc::PROT_READ | libc::PROT_WRITE), 0);
            let data = match edge {
                Edge::Front => first.cast::<T>(),
                Edge::Back => first.add(inner - size).cast(),
            };
            assert!(data.is_aligned());
            data.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Self { map, bytes, data, len: values.len() }
        }
    }

    /// A copy of `values` that cannot be written to.
    pub fn input(edge: Edge, values: &[T]) -> Self {
        let guarded = Self::output(edge, values);
        // SAFETY: its inner pages; nothing writes to an input.
        unsafe {
            let first = guarded.map.cast::<u8>().add(page());
            assert_eq!(libc::mprotect(first.cast(), guarded.bytes - 2 * page(), libc::PROT_READ), 0);
        }
        guarded
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: nothing borrows the elements any more.
        assert_eq!(unsafe { libc::munmap(self.map, self.bytes) }, 0);
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialized elements, as long as `self` lives.
        unsafe { core::slice::from_raw_parts(self.data, self.len) }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; whoever writes to an input ends here.
        unsafe { core::slice::from_raw_parts_mut(self.data, self.len) }
    }
}

impl<T> AsRef<[T]> for Guarded<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> AsMut<[T]> for Guarded<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

// SAFETY: it owns its elements as a box does.
unsafe impl<T: Send> Send for Guarded<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Guarded<T> {}

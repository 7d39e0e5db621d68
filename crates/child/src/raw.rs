//! One system call by hand: the instruction, and how numbers become arguments.

use core::arch::asm;
use core::ffi::c_long;

/// Makes system call `number`; the answer is the kernel's, a negative errno on failure.
///
/// # Safety
///
/// Every argument that the kernel takes as an address must be null where that is allowed, or
/// point to memory that is valid for what this call reads or writes there.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn syscall(number: c_long, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let answer: isize;
    // SAFETY: `syscall` changes rax, rcx and r11, all declared, and no stack of ours; what the
    // arguments point to is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// Makes system call `number`; the answer is the kernel's, a negative errno on failure.
///
/// # Safety
///
/// Every argument that the kernel takes as an address must be null where that is allowed, or
/// point to memory that is valid for what this call reads or writes there.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn syscall(number: c_long, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    let answer: usize;
    // SAFETY: `svc 0` changes x0 alone, which is declared, and no stack of ours; what the
    // arguments point to is the caller's promise.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => answer,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") e,
            in("x5") f,
            options(nostack),
        );
    }
    answer.cast_signed()
}

/// A type that fits in a register.
pub(crate) trait Word {
    /// The register's contents.
    fn word(self) -> usize;
}

impl Word for i32 {
    /// Sign-extended, as the kernel's own `int` arguments are.
    fn word(self) -> usize {
        (self as isize).cast_unsigned()
    }
}

impl Word for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Word for usize {
    fn word(self) -> usize {
        self
    }
}

impl<T> Word for *const T {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for *mut T {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for &T {
    fn word(self) -> usize {
        core::ptr::from_ref(self) as usize
    }
}

impl<T> Word for &mut T {
    fn word(self) -> usize {
        core::ptr::from_mut(self) as usize
    }
}

impl Word for &core::ffi::CStr {
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}

/// `call!(SYS_x, a, b, …)`: the arguments as words, the rest zero; `Ok(value)` or `Err(errno)`.
/// Expands to an unsafe call: the `unsafe` block and its reason are the caller's.
macro_rules! call {
    (@six $number:expr; $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr; $($rest:tt)*) => {
        $crate::raw::syscall($number, [$a, $b, $c, $d, $e, $f])
    };
    ($number:expr) => { call!(@six $number; 0, 0, 0, 0, 0, 0;) };
    ($number:expr, $a:expr) => { call!(@six $number; $a.word(), 0, 0, 0, 0, 0;) };
    ($number:expr, $a:expr, $b:expr) => { call!(@six $number; $a.word(), $b.word(), 0, 0, 0, 0;) };
    ($number:expr, $a:expr, $b:expr, $c:expr) => {
        call!(@six $number; $a.word(), $b.word(), $c.word(), 0, 0, 0;)
    };
    ($number:expr, $a:expr, $b:expr, $c:expr, $d:expr) => {
        call!(@six $number; $a.word(), $b.word(), $c.word(), $d.word(), 0, 0;)
    };
    ($number:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {
        call!(@six $number; $a.word(), $b.word(), $c.word(), $d.word(), $e.word(), 0;)
    };
}

pub(crate) use call;

//! The vector instructions that the operations use. Results do not depend on them: that is tested.

use std::fmt;

use pulp::{Scalar, Simd, WithSimd};

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub enum Isa {
    /// No vectors: single numbers, with fused multiply-add.
    Scalar,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    /// ARM's vectors of four floats.
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl Isa {
    /// All instruction sets that this processor has, the widest last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(Self::Avx2));
            all.extend(pulp::x86::V4::try_new().map(Self::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(pulp::aarch64::Neon::try_new().map(Self::Neon));
        all
    }

    /// The widest instruction set that this processor has.
    pub fn widest() -> Self {
        Self::available().pop().unwrap_or(Self::Scalar)
    }

    /// Its name, as in `cpu:avx2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }

    /// Runs an operation that is compiled for these instructions.
    ///
    /// Only what is inlined into `with_simd` is compiled for them. So every function on the way to
    /// the innermost loop is `#[inline(always)]`; a call in between would run with the program's
    /// own, narrow instructions.
    pub(crate) fn run<Op: WithSimd>(self, operation: Op) -> Op::Output {
        match self {
            Self::Scalar => Simd::vectorize(Scalar, operation),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => Simd::vectorize(simd, operation),
        }
    }
}

/// A closure over plain loops, which the compiler vectorises for the instruction set that runs it.
pub(crate) struct WithIsa<F>(pub(crate) F);

impl<F: FnOnce() -> R, R> WithSimd for WithIsa<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> R {
        (self.0)()
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Isa {}

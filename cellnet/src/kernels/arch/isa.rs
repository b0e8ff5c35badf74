//! Detection of the machine's instruction sets.

/// The instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// Proof that this machine has an instruction set. Only [`Isa::available`] makes one, after asking the
/// processor, so a value permits calling the kernels compiled for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

impl Isa {
    /// The instruction sets of this machine, best first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let sets = [
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512Vnni, has_avx2() && has_avx512() && has_vnni()),
            #[cfg(target_arch = "x86_64")]
            (Set::Avx512, has_avx2() && has_avx512()),
            #[cfg(target_arch = "x86_64")]
            (Set::Avx2, has_avx2()),
            (Set::Portable, true),
        ];
        sets.into_iter().filter(|(_, is_here)| *is_here).map(|(set, _)| Self(set)).collect()
    }

    /// The best instruction set of this machine.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().first().copied().unwrap_or(Self(Set::Portable))
    }

    /// The instruction set itself.
    pub(in crate::kernels) fn set(self) -> Set {
        self.0
    }

    /// The same instruction set, or a subset of it, for sums of bytes: AVX-512 without VNNI has nothing for
    /// them that AVX2 lacks.
    pub(in crate::kernels) fn for_bytes(self) -> Self {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Self(Set::Avx2),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni | Set::Avx2 => self,
            Set::Portable => self,
        }
    }

    /// `avx512vnni`, `avx512`, `avx2` or `portable`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            Set::Portable => "portable",
        }
    }
}

/// Whether the processor has what the kernels for AVX2 use.
#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether the processor has what the kernels for AVX-512 use besides.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

/// Whether it has AVX-512's products of bytes, and 16-bit integers; no processor has the first only.
#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw")
}

//! The integers of F(2×2, 3×3) on x86-64: AVX2.

use std::arch::x86_64::*;

use super::squares::Squares;
use super::x86::Avx2;

/// Moves the first two, or the last two, of the four bytes of each lane of a vector to the upper halves of 16
/// bits.
const TO_UPPER: [[i8; 32]; 2] = [to_upper(0), to_upper(2)];

const fn to_upper(first: i8) -> [i8; 32] {
    let mut order = [-1; 32];
    let mut word = 0;
    while word < 16 {
        // Bytes are moved within 128 bits.
        order[2 * word + 1] = (word as i8 / 2 % 4) * 4 + first + word as i8 % 2;
        word += 1;
    }
    order
}

impl Squares for Avx2 {
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn widened(p: *const u8) -> __m256i {
        _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn two_of_four(p: *const f32, two: usize) -> __m256i {
        let order = _mm256_loadu_si256(TO_UPPER[two].as_ptr().cast());
        // A byte in the upper half of 16 bits is shifted down with its sign.
        _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(_mm256_loadu_si256(p.cast()), order))
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut i16, w: __m256i) {
        _mm256_storeu_si256(p.cast(), w);
    }
    #[inline(always)]
    unsafe fn load_sums(p: *const f32) -> __m256i {
        _mm256_loadu_si256(p.cast())
    }
    #[inline(always)]
    unsafe fn plus_sums(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn minus_sums(a: __m256i, b: __m256i) -> __m256i {
        _mm256_sub_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn quarter(a: __m256i) -> __m256i {
        _mm256_srai_epi32::<2>(a)
    }
    #[inline(always)]
    unsafe fn store_sums(p: *mut f32, a: __m256i) {
        _mm256_storeu_si256(p.cast(), a);
    }
}

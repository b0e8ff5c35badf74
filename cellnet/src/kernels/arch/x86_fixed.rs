//! 16-bit integers on x86-64: AVX-512 (BW), and AVX2.

use std::arch::x86_64::*;

use super::fixed::Fixed;
use super::x86::{Avx2, Avx512, Avx512Half};

impl Fixed for Avx512 {
    type W = __m512i;
    type Table = __m512i;

    #[inline(always)]
    unsafe fn words(a: __m512, b: __m512) -> __m512i {
        _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b))
    }
    #[inline(always)]
    unsafe fn word(x: i16) -> __m512i {
        _mm512_set1_epi16(x)
    }
    #[inline(always)]
    unsafe fn plus(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn minus(a: __m512i, b: __m512i) -> __m512i {
        _mm512_sub_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn larger(a: __m512i, b: __m512i) -> __m512i {
        _mm512_max_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn size(a: __m512i, most: __m512i) -> __m512i {
        _mm512_min_epu16(_mm512_abs_epi16(a), most)
    }
    #[inline(always)]
    unsafe fn low_product(a: __m512i, b: __m512i) -> __m512i {
        _mm512_mullo_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn product(a: __m512i, b: __m512i) -> __m512i {
        _mm512_mulhrs_epi16(a, b)
    }
    #[inline(always)]
    unsafe fn table(entries: &'static [i16; 16]) -> __m512i {
        _mm512_broadcast_i64x4(_mm256_loadu_si256(entries.as_ptr().cast()))
    }
    #[inline(always)]
    unsafe fn entries(table: __m512i, index: __m512i) -> __m512i {
        _mm512_permutexvar_epi16(index, table)
    }
    #[inline(always)]
    unsafe fn store_words_as_bytes(w: __m512i, a: *mut u8, b: *mut u8) {
        // Each 128 bits hold four of the first vector and four of the second.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
        let bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(w, w));
        _mm_storeu_si128(a.cast(), _mm512_castsi512_si128(bytes));
        _mm_storeu_si128(b.cast(), _mm512_extracti32x4_epi32::<1>(bytes));
    }
}

/// The operations of the two back ends with eight lanes of floats.
macro_rules! sixteen_words {
    ($back_end:ty) => {
        impl Fixed for $back_end {
            type W = __m256i;
            type Table = [__m256i; 2];

            #[inline(always)]
            unsafe fn words(a: __m256, b: __m256) -> __m256i {
                _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b))
            }
            #[inline(always)]
            unsafe fn word(x: i16) -> __m256i {
                _mm256_set1_epi16(x)
            }
            #[inline(always)]
            unsafe fn plus(a: __m256i, b: __m256i) -> __m256i {
                _mm256_add_epi16(a, b)
            }
            #[inline(always)]
            unsafe fn minus(a: __m256i, b: __m256i) -> __m256i {
                _mm256_sub_epi16(a, b)
            }
            #[inline(always)]
            unsafe fn larger(a: __m256i, b: __m256i) -> __m256i {
                _mm256_max_epi16(a, b)
            }
            #[inline(always)]
            unsafe fn size(a: __m256i, most: __m256i) -> __m256i {
                _mm256_min_epu16(_mm256_abs_epi16(a), most)
            }
            #[inline(always)]
            unsafe fn low_product(a: __m256i, b: __m256i) -> __m256i {
                _mm256_mullo_epi16(a, b)
            }
            #[inline(always)]
            unsafe fn product(a: __m256i, b: __m256i) -> __m256i {
                _mm256_mulhrs_epi16(a, b)
            }
            /// The lower bytes of all entries, and the upper.
            #[inline(always)]
            unsafe fn table(entries: &'static [i16; 16]) -> [__m256i; 2] {
                let (low, high) =
                    (entries.map(|entry| entry as u8), entries.map(|entry| (entry >> 8) as u8));
                let (low, high) = (low.as_ptr().cast(), high.as_ptr().cast());
                [
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(low)),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(high)),
                ]
            }
            #[inline(always)]
            unsafe fn entries(table: [__m256i; 2], index: __m256i) -> __m256i {
                // An index of 128 gives 0.
                let low = _mm256_or_si256(index, _mm256_set1_epi16(i16::MIN));
                let high = _mm256_or_si256(_mm256_slli_epi16::<8>(index), _mm256_set1_epi16(128));
                _mm256_or_si256(
                    _mm256_shuffle_epi8(table[0], low),
                    _mm256_shuffle_epi8(table[1], high),
                )
            }
            #[inline(always)]
            unsafe fn store_words_as_bytes(w: __m256i, a: *mut u8, b: *mut u8) {
                let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
                let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(w, w), order);
                let bytes = _mm256_castsi256_si128(bytes);
                _mm_storel_epi64(a.cast(), bytes);
                _mm_storel_epi64(b.cast(), _mm_unpackhi_epi64(bytes, bytes));
            }
        }
    };
}
sixteen_words!(Avx2);
sixteen_words!(Avx512Half);

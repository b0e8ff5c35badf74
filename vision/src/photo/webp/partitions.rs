//! Checks that the partitions of a lossy frame fit into it (RFC 6386, sections 7.3 and 9.3 to 9.5). The
//! decoder allocates the declared size of a partition, up to 16 MB, before it reads it. The rest of the frame
//! is not checked here.

/// Whether every partition of the `VP8 ` chunk `data`, which begins with a key frame's header of 10 bytes,
/// ends within it.
pub(super) fn fit(data: &[u8]) -> bool {
    let Some((&[t0, t1, t2, ..], rest)) = data.split_first_chunk::<10>() else { return false };
    let first = (u32::from_le_bytes([t0, t1, t2, 0]) >> 5) as usize;
    let Some((first, rest)) = rest.split_at_checked(first) else { return false };
    let others = Bits::new(first).partitions() - 1;
    let Some((sizes, rest)) = rest.split_at_checked(3 * others) else { return false };
    let size = |size: &[u8]| size.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    sizes.chunks_exact(3).map(size).sum::<usize>() <= rest.len()
}

/// The boolean decoder, for bits of probability 1/2. It reads zeros after the end of its data.
struct Bits<'a> {
    bytes: std::slice::Iter<'a, u8>,
    value: u32,
    range: u32,
    shifted: u32,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        let mut bits = Self { bytes: data.iter(), value: 0, range: 255, shifted: 0 };
        bits.value = bits.byte() << 8 | bits.byte();
        bits
    }

    fn byte(&mut self) -> u32 {
        self.bytes.next().copied().map_or(0, u32::from)
    }

    fn bit(&mut self) -> bool {
        let split = 1 + ((self.range - 1) >> 1);
        let is_one = self.value >= split << 8;
        if is_one {
            self.range -= split;
            self.value -= split << 8;
        } else {
            self.range = split;
        }
        while self.range < 128 {
            (self.value, self.range, self.shifted) =
                (self.value << 1, self.range << 1, self.shifted + 1);
            if self.shifted == 8 {
                (self.value, self.shifted) = (self.value | self.byte(), 0);
            }
        }
        is_one
    }

    fn skip(&mut self, bits: u32) {
        (0..bits).for_each(|_| _ = self.bit());
    }

    /// Skips `count` optional values of `bits` bits; a flag before each says whether it is present.
    fn skip_flagged(&mut self, count: u32, bits: u32) {
        for _ in 0..count {
            if self.bit() {
                self.skip(bits);
            }
        }
    }

    /// The number of partitions with coefficients: 1, 2, 4 or 8.
    fn partitions(&mut self) -> usize {
        self.skip(2); // colour space, clamping
        if self.bit() {
            self.skip_segments();
        }
        self.skip(1 + 6 + 3); // loop filter: type, level, sharpness
        if self.bit() && self.bit() {
            self.skip_flagged(8, 7); // its adjustments by reference frame and by mode
        }
        1 << (u32::from(self.bit()) << 1 | u32::from(self.bit()))
    }

    fn skip_segments(&mut self) {
        let (has_map, has_values) = (self.bit(), self.bit());
        if has_values {
            self.skip(1); // whether they are absolute
            self.skip_flagged(4, 8); // quantizer
            self.skip_flagged(4, 7); // loop filter
        }
        if has_map {
            self.skip_flagged(3, 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fit;

    /// A fuzzer's input: 323 bytes for which the decoder allocated 15 MB.
    const FOUND: &[u8] = include_bytes!("../../../../fuzz/corpus/photo/webp-partition-too-long");

    #[test]
    fn a_partition_longer_than_the_file_is_refused() {
        // The frame begins after the fuzzer's own byte and the RIFF and chunk headers.
        assert!(!fit(&FOUND[21..]));
    }

    #[test]
    fn frames_of_real_encoders_fit_and_no_part_of_them_does() {
        let file = include_bytes!("../../../../tests/photos/coffee.webp");
        let start = file.windows(4).position(|name| name == b"VP8 ").unwrap();
        let length = u32::from_le_bytes(file[start + 4..start + 8].try_into().unwrap()) as usize;
        let data = &file[start + 8..start + 8 + length];
        assert!(fit(data));
        let first =
            usize::from(data[0]) >> 5 | usize::from(data[1]) << 3 | usize::from(data[2]) << 11;
        for end in 0..10 + first {
            assert!(!fit(&data[..end]), "{end}");
        }
    }
}

//! Converts grey, alpha and CMYK samples to RGB, without colour profiles (see `color`).

/// Repeats each grey sample three times.
pub(super) fn rgb_from_grey(grey: &[u8]) -> Vec<u8> {
    let mut rgb = vec![[0; 3]; grey.len()];
    rgb.iter_mut().zip(grey).for_each(|(rgb, &grey)| *rgb = [grey; 3]);
    rgb.into_flattened()
}

/// A sample blended over white: `sample·a + 255·(1 - a)`, rounded, with `a` = `alpha` / 255.
pub(super) fn over_white(sample: u8, alpha: u8) -> u8 {
    let (sample, alpha) = (u32::from(sample), u32::from(alpha));
    // At most 255, because the two weights add up to 255.
    ((sample * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// Red, green and blue blended over white by their alpha.
pub(super) fn rgb_from_rgba([r, g, b, a]: [u8; 4]) -> [u8; 3] {
    match a {
        255 => [r, g, b],
        _ => [r, g, b].map(|sample| over_white(sample, a)),
    }
}

/// Cyan, magenta, yellow and black (255 is full ink) to RGB, as Pillow does without a profile:
/// `(255 - k)·(255 - c) / 255`.
pub(super) fn rgb_from_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let paper = u32::from(255 - k);
    [c, m, y].map(|ink| {
        let product = paper * u32::from(ink) + 128;
        // Division by 255, rounded as in Pillow.
        (paper - ((product + (product >> 8)) >> 8)) as u8
    })
}

/// Converts four channels per pixel to three, in the same memory.
pub(super) fn narrowed(mut samples: Vec<u8>, convert: fn([u8; 4]) -> [u8; 3]) -> Vec<u8> {
    let pixels = samples.len() / 4;
    for pixel in 0..pixels {
        // Reads 4 bytes per pixel and writes 3, so reading stays ahead of writing.
        if let Some(four) = samples.get(pixel * 4..).and_then(|rest| rest.first_chunk().copied()) {
            samples[pixel * 3..][..3].copy_from_slice(&convert(four));
        }
    }
    samples.truncate(pixels * 3);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_exact() {
        for sample in 0..=255_u8 {
            for alpha in 0..=255_u8 {
                let opacity = f64::from(alpha) / 255.0;
                let expected = f64::from(sample) * opacity + 255.0 * (1.0 - opacity);
                let found = f64::from(over_white(sample, alpha));
                assert!((found - expected).abs() <= 0.5 + 1e-9, "{sample} {alpha}: {found}");
            }
        }
        assert_eq!(rgb_from_rgba([1, 2, 3, 255]), [1, 2, 3]);
        assert_eq!(rgb_from_rgba([1, 2, 3, 0]), [255; 3]);
    }

    #[test]
    fn cmyk_is_ink_on_paper() {
        assert_eq!(rgb_from_cmyk([0, 0, 0, 0]), [255; 3]);
        assert_eq!(rgb_from_cmyk([0, 0, 0, 255]), [0; 3]);
        assert_eq!(rgb_from_cmyk([255, 0, 0, 0]), [0, 255, 255]);
        assert_eq!(rgb_from_cmyk([100, 50, 0, 100]), [94, 125, 155]);
    }

    #[test]
    fn narrows_in_place() {
        let samples = vec![1, 2, 3, 255, 4, 5, 6, 0, 7, 8, 9, 255];
        assert_eq!(narrowed(samples, rgb_from_rgba), [1, 2, 3, 255, 255, 255, 7, 8, 9]);
        assert!(narrowed(vec![], rgb_from_rgba).is_empty());
    }
}

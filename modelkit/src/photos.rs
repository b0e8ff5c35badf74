//! Reads files as input tensors of a model.
//!
//! A photo is processed as in a request: decoded, turned upright, resized, normalised. A `.npy` file holds
//! the tensor itself.

use std::fs;
use std::path::{Path, PathBuf};

use skincell_vision::card::{Dtype, Input};
use skincell_vision::photo::{Limits, Photo, PhotoError};
use skincell_vision::resize::ResizeError;
use skincell_vision::tensor::{PhotoTensor, PhotoTensorError, from_photo};
use skincell_vision::view;
use thiserror::Error;

use crate::interface::shape_of;
use crate::samples;

/// Extensions of the photos that are read, in lower case.
pub const DECODED: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif"];
/// Extensions of photos that no decoder here reads.
const NOT_READ: [&str; 5] = ["heic", "heif", "avif", "tif", "tiff"];

/// Why a file cannot be used as a model's input.
#[derive(Debug, Error)]
pub enum PhotosError {
    /// The file cannot be read.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The file system's error.
        error: std::io::Error,
    },
    /// The folder holds no photo.
    #[error("{path} holds no photo (.jpg, .jpeg, .png, .webp, .bmp, .gif) and no .npy", path = .0.display())]
    Empty(PathBuf),
    /// The file cannot be decoded.
    #[error("{path}: {error}", path = path.display())]
    Photo {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: PhotoError,
    },
    /// The photo cannot be resized.
    #[error("{path}: {error}", path = path.display())]
    Resize {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: ResizeError,
    },
    /// The photo cannot be converted to a tensor.
    #[error("{path}: {error}", path = path.display())]
    PhotoTensor {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: PhotoTensorError,
    },
    /// The `.npy` file does not hold the model's input.
    #[error("{path}: {problem}", path = path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// The problem, and the expected form.
        problem: String,
    },
}

/// The files in a list of files and folders; the files of a folder are sorted by name.
///
/// # Errors
/// [`PhotosError`] if a path does not exist or a folder holds no photo.
pub fn list(paths: &[PathBuf]) -> Result<Vec<PathBuf>, PhotosError> {
    let mut files = Vec::new();
    for path in paths {
        let fail = |error| PhotosError::File { path: path.clone(), error };
        if !fs::metadata(path).map_err(fail)?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = files_in(path)?;
        found.retain(|file| is_read(file));
        if found.is_empty() {
            return Err(PhotosError::Empty(path.clone()));
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

/// The entries of a folder.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, PhotosError> {
    let failed = |error| PhotosError::File { path: folder.to_owned(), error };
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

/// Whether a file of a folder is read: a photo, or a tensor.
fn is_read(file: &Path) -> bool {
    has_extension(file, &DECODED) || has_extension(file, &["npy"])
}

/// Whether the extension of a file is one of `known`, which are in lower case.
#[must_use]
pub fn has_extension(file: &Path, known: &[&str]) -> bool {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    known.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// The photos in a folder, sorted by name, without hidden ones; also those of kinds that cannot be read, so
/// that the caller names them. A path that is no folder is itself the photo.
///
/// # Errors
/// [`PhotosError::File`] if the path does not exist.
pub(crate) fn all_in(path: &Path) -> Result<Vec<PathBuf>, PhotosError> {
    let failed = |error| PhotosError::File { path: path.to_owned(), error };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = files_in(path)?;
    found.retain(|file| {
        let is_photo = is_read(file) || has_extension(file, &NOT_READ);
        is_photo && !is_hidden(file) && !file.is_dir()
    });
    found.sort();
    Ok(found)
}

/// As [`all_in`], with those in all subfolders. Subfolders that are links are left out, because they may
/// form a cycle.
///
/// # Errors
/// As [`all_in`].
pub(crate) fn all_below(folder: &Path) -> Result<Vec<PathBuf>, PhotosError> {
    let mut found = all_in(folder)?;
    for inner in subfolders(folder)?.iter().filter(|inner| !inner.is_symlink()) {
        found.extend(all_below(inner)?);
    }
    Ok(found)
}

/// At most `most` of the files in a list of files and folders, evenly spread. Of a folder without photos
/// those in all its subfolders are taken.
///
/// # Errors
/// [`PhotosError`] if a path does not exist or a folder and its subfolders hold no photo.
pub fn some(paths: &[PathBuf], most: usize) -> Result<Vec<PathBuf>, PhotosError> {
    let mut files = Vec::new();
    for path in paths {
        let mut found = all_in(path)?;
        if path.is_dir() {
            found.retain(|file| is_read(file));
            if found.is_empty() {
                for folder in subfolders(path)? {
                    found.extend(all_below(&folder)?);
                }
                found.retain(|file| is_read(file));
            }
        }
        if found.is_empty() {
            return Err(PhotosError::Empty(path.clone()));
        }
        files.extend(found);
    }
    Ok(spread(files.len(), most).map(|i| files[i].clone()).collect())
}

/// Indices of `most` of `count` elements, at equal distances; of all, if there are not more.
pub(crate) fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let chosen = count.min(most);
    (0..chosen).map(move |i| i * count / chosen)
}

/// The elements of a tensor in f32, also of one of bytes (0 to 255).
pub(crate) fn elements(tensor: &PhotoTensor) -> Vec<f32> {
    match tensor.dtype {
        Dtype::U8 => tensor.data.iter().map(|b| f32::from(*b)).collect(),
        Dtype::F32 => tensor.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

/// The folders directly in a folder, sorted by name, without hidden ones.
///
/// # Errors
/// [`PhotosError::File`] if it cannot be read.
pub(crate) fn subfolders(path: &Path) -> Result<Vec<PathBuf>, PhotosError> {
    let mut folders = files_in(path)?;
    folders.retain(|folder| folder.is_dir() && !is_hidden(folder));
    folders.sort();
    Ok(folders)
}

/// Reads one file as the model's input tensor.
///
/// # Errors
/// [`PhotosError`] with the file's name.
pub fn load(path: &Path, input: &Input) -> Result<PhotoTensor, PhotosError> {
    let owned = || path.to_owned();
    let bytes = fs::read(path).map_err(|error| PhotosError::File { path: owned(), error })?;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
        return npy(&bytes, input).map_err(|problem| PhotosError::Npy { path: owned(), problem });
    }
    let photo = view::decode(&bytes, input, &Limits::default())
        .map_err(|error| PhotosError::Photo { path: owned(), error })?;
    let seen =
        view::view(&photo, input).map_err(|error| PhotosError::Resize { path: owned(), error })?;
    from_photo(&seen.photo, input)
        .map_err(|error| PhotosError::PhotoTensor { path: owned(), error })
}

/// Names and float32 input tensors of these files, or of the drawings of [`crate::samples`] if there are
/// none.
///
/// # Errors
/// [`PhotosError`] for the first file that cannot be read.
pub(crate) fn samples(
    paths: &[PathBuf],
    input: &Input,
) -> Result<Vec<(String, rten_tensor::Tensor<f32>)>, PhotosError> {
    let shape = shape_of(input);
    let floats = |tensor: PhotoTensor| {
        let elements = tensor.data.as_chunks::<4>().0;
        let values = elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>();
        rten_tensor::Tensor::from_data(&shape, values)
    };
    let photos = if paths.is_empty() { drawn(input)? } else { named(paths, input)? };
    Ok(photos.into_iter().map(|(name, tensor)| (name, floats(tensor))).collect())
}

/// Names and input tensors of the drawings of [`crate::samples`].
///
/// # Errors
/// [`PhotosError`] if they cannot become a tensor of this input.
pub fn drawn(input: &Input) -> Result<Vec<(String, PhotoTensor)>, PhotosError> {
    let seen = |(name, photo): (String, Photo)| {
        let path = || PathBuf::from(format!("the drawing {name}"));
        let seen = view::view(&photo, input)
            .map_err(|error| PhotosError::Resize { path: path(), error })?;
        let tensor = from_photo(&seen.photo, input)
            .map_err(|error| PhotosError::PhotoTensor { path: path(), error })?;
        Ok((format!("the drawing \"{name}\""), tensor))
    };
    samples::photos().into_iter().map(seen).collect()
}

/// Reads all files in a list of files and folders.
///
/// # Errors
/// [`PhotosError`] for the first file that cannot be read.
pub fn load_all(paths: &[PathBuf], input: &Input) -> Result<Vec<PhotoTensor>, PhotosError> {
    list(paths)?.iter().map(|file| load(file, input)).collect()
}

/// Names and tensors of all files in a list of files and folders.
///
/// # Errors
/// [`PhotosError`] for the first file that cannot be read.
pub(crate) fn named(
    paths: &[PathBuf],
    input: &Input,
) -> Result<Vec<(String, PhotoTensor)>, PhotosError> {
    let read = |file: &PathBuf| Ok((file.display().to_string(), load(file, input)?));
    list(paths)?.iter().map(read).collect()
}

/// Reads a NumPy file (format 1 to 3). Element type (float32 or uint8) and shape must be those of the input,
/// in C order.
fn npy(bytes: &[u8], input: &Input) -> Result<PhotoTensor, String> {
    let lengths = match bytes.get(..8) {
        Some([0x93, b'N', b'U', b'M', b'P', b'Y', 1, _]) => 2,
        Some([0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _]) => 4,
        _ => return Err("this is not a NumPy file; save it with numpy.save".to_owned()),
    };
    let cut = || "the file is cut short; save it again".to_owned();
    let digits = bytes.get(8..8 + lengths).ok_or_else(cut)?;
    let length = digits.iter().rev().fold(0_usize, |n, b| n << 8 | usize::from(*b));
    let start = 8 + lengths;
    let header = start.checked_add(length).and_then(|end| bytes.get(start..end)).ok_or_else(cut)?;
    let data = bytes.get(start + length..).ok_or_else(cut)?;
    let header: String = String::from_utf8_lossy(header).split_whitespace().collect();
    let (kind, size) = match input.dtype {
        Dtype::F32 => ("'<f4'", 4),
        Dtype::U8 => ("'|u1'", 1),
    };
    let shape = shape_of(input);
    let [n, a, b, c] = shape;
    let wanted =
        [format!("'descr':{kind}"), "'fortran_order':False".into(), format!("({n},{a},{b},{c})")];
    if let Some(missing) = wanted.iter().find(|w| !header.contains(w.as_str())) {
        return Err(format!(
            "its header {header} does not contain {missing}, as the model requires"
        ));
    }
    if data.len() != shape.iter().product::<usize>() * size {
        return Err(cut());
    }
    let dimensions = shape.iter().map(|d| u32::try_from(*d).unwrap_or(u32::MAX)).collect();
    Ok(PhotoTensor { dimensions, dtype: input.dtype, data: data.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skincell_vision::card::{ChannelOrder, Layout, Resize};

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn only_the_models_own_tensor_is_accepted() {
        let input = Input {
            name: "x".to_owned(),
            layout: Layout::Nchw,
            dtype: Dtype::U8,
            width: 2,
            height: 1,
            mean: [0.0; 3],
            std: [1.0; 3],
            order: ChannelOrder::Rgb,
            resize: Resize::default(),
        };
        let good = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 3, 1, 2), }\n";
        let tensor = npy(&file(good, &[1, 2, 3, 4, 5, 6]), &input).expect("it fits");
        assert_eq!((tensor.dimensions, tensor.data), (vec![1, 3, 1, 2], vec![1, 2, 3, 4, 5, 6]));
        let cases: [(&str, Vec<u8>, &str); 5] = [
            ("text", b"hello, world".to_vec(), "not a NumPy file"),
            ("short data", file(good, &[1]), "cut short"),
            ("short header", b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "cut short"),
            ("floats", file(&good.replace("|u1", "<f4"), &[0; 24]), "'|u1'"),
            ("shape", file(&good.replace("1, 2)", "2, 1)"), &[0; 6]), "(1,3,1,2)"),
        ];
        for (name, bytes, says) in cases {
            let error = npy(&bytes, &input).expect_err(name);
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}

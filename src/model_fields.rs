//! Makes the tensors of the inputs that a model has beside the photo, from the request's numbers or the
//! card's defaults.

use skincell_vision::card::{Card, Dtype, Field, GradCam};
use skincell_vision::tensor::PhotoTensor;

use crate::problem::{Problem, excerpt};

/// The name and tensor of each field in the card; numbers in `given` replace its default, and `class`, the
/// class that a heatmap was asked for, that of the field which takes it.
///
/// # Errors
/// [`Problem::UnknownField`] if `given` names another field, [`Problem::BadField`] for another count of
/// numbers.
pub(crate) fn tensors<'c>(
    card: &'c Card,
    given: &[(String, Vec<f32>)],
    class: Option<usize>,
) -> Result<Vec<(&'c str, PhotoTensor)>, Problem> {
    let known = |name: &str| card.fields.iter().any(|field| field.name == name);
    if let Some((name, _)) = given.iter().find(|(name, _)| !known(name)) {
        let names: Vec<&str> = card.fields.iter().map(|field| field.name.as_str()).collect();
        let known = match names.as_slice() {
            [] => "takes only a photo".to_owned(),
            names => format!("takes {}", names.join(", ")),
        };
        return Err(Problem::UnknownField { name: excerpt(name), model: card.name.clone(), known });
    }
    let asked = card.gradcam.as_ref().and_then(GradCam::asked).zip(class);
    let tensor = |field: &'c Field| {
        let said = given.iter().rev().find(|(name, _)| *name == field.name);
        match asked {
            Some((name, class)) if name == field.name => tensor(field, &[class as f32]),
            _ => tensor(field, said.map_or(&field.default, |(_, numbers)| numbers)),
        }
    };
    card.fields.iter().map(tensor).collect()
}

fn tensor<'c>(field: &'c Field, numbers: &[f32]) -> Result<(&'c str, PhotoTensor), Problem> {
    let (found, wanted) = (numbers.len(), field.default.len());
    if found != wanted {
        return Err(Problem::BadField { name: field.name.clone(), found, wanted });
    }
    let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let tensor = PhotoTensor { dimensions: field.shape.clone(), dtype: Dtype::F32, data };
    Ok((&field.name, tensor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tests::card_json;
    use skincell_vision::card::MapClasses;

    #[test]
    fn numbers_of_the_request_replace_defaults_and_are_checked() {
        let mut card = Card::parse(card_json("skin").as_bytes()).unwrap();
        let field = |name: &str, default: &[f32]| Field {
            name: name.to_owned(),
            shape: vec![1, default.len() as u32],
            default: default.to_vec(),
        };
        card.fields = vec![field("age", &[54.0]), field("site", &[0.0, 1.0])];
        let numbers = |given: &[(&str, &[f32])]| {
            let given: Vec<(String, Vec<f32>)> =
                given.iter().map(|(name, list)| ((*name).to_owned(), list.to_vec())).collect();
            let made = tensors(&card, &given, None).map_err(|problem| problem.kind().name)?;
            Ok(made.into_iter().map(|(_, tensor)| tensor.data).collect::<Vec<_>>())
        };
        let bytes = |list: &[f32]| list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(numbers(&[]), Ok(vec![bytes(&[54.0]), bytes(&[0.0, 1.0])]));
        let said: [(&str, &[f32]); 1] = [("age", &[7.0])];
        assert_eq!(numbers(&said), Ok(vec![bytes(&[7.0]), bytes(&[0.0, 1.0])]));
        let cases: [(&str, &[f32], &str); 3] = [
            ("sex", &[1.0], "unknown-field"),
            ("site", &[1.0], "bad-field"),
            ("age", &[1.0, 2.0], "bad-field"),
        ];
        for (name, list, expected) in cases {
            assert_eq!(numbers(&[(name, list)]), Err(expected), "{name}");
        }
    }

    /// A model with maps of the likeliest classes alone has a field for one more.
    #[test]
    fn the_class_asked_for_goes_into_its_field() {
        let mut card = Card::parse(card_json("skin").as_bytes()).unwrap();
        let (name, asked) = ("cam_class".to_owned(), Some("cam_class".to_owned()));
        card.fields = vec![Field { name, shape: vec![1, 1], default: vec![-1.0] }];
        let output = "cam_classes".to_owned();
        card.gradcam.as_mut().unwrap().classes = MapClasses::Likeliest { count: 1, output, asked };
        for (class, expected) in [(None, -1.0_f32), (Some(1), 1.0)] {
            let made = tensors(&card, &[], class).unwrap();
            assert_eq!(made[0].1.data, expected.to_le_bytes(), "{class:?}");
        }
    }
}

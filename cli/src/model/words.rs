//! What a card says of a model's tensors, in words.

use skincell_vision::card::{
    Activation, Basis, Dtype, Form, GradCam, Input, Layout, Output, Target,
};

/// Size, order of axes and type of the input.
pub(super) fn tensor(input: &Input) -> String {
    let layout = match input.layout {
        Layout::Nchw => "channels first",
        Layout::Nhwc => "channels last",
    };
    let dtype = match input.dtype {
        Dtype::F32 => "float32",
        Dtype::U8 => "bytes",
    };
    format!("{}x{}, {layout}, {dtype}", input.width, input.height)
}

/// What the scores are, and what makes probabilities of them.
pub(super) fn scores(output: &Output) -> String {
    let activation = match output.activation {
        Activation::Softmax => "softmax",
        Activation::Sigmoid => "sigmoid",
    };
    match output.form {
        Form::Logits => format!("logits, before {activation}"),
        Form::Probabilities => format!("probabilities, after {activation}"),
    }
}

/// Where the heatmap is taken, and which score it explains.
pub(super) fn explains(map: &GradCam) -> String {
    let target = match map.target {
        Target::Conv => "of the convolution itself",
        Target::Activation => "after the activation",
    };
    let basis = match map.basis {
        Basis::Probability => "probability",
        Basis::Logit => "logit",
    };
    format!("{target}, for the {basis}")
}

//! The derivatives of elementwise functions, as operators of the graph.
//!
//! For each function a comment gives `y = f(x)` and `dy/dx` in terms of `x` and `y`. At a kink the derivative
//! is that of TensorFlow and PyTorch: 0 for ReLU at 0, and 0 for a clip at its bounds. Rounding to integers
//! and back is differentiated as by TensorFlow's `fake_quant_with_min_max_args`: 1 within the range of the
//! integers, 0 outside. The chain rule is applied in `tangent` and `reverse`.

use rten_onnx::onnx::{AttributeProto, DataType, NodeProto};

use super::closed::name;
use crate::onnx::graph::{Graph, float, float_attribute, input, int_attribute, op, output, text};
use crate::onnx::integer;
use skincell_onnx::Constant;

/// 1/√2.
const FRAC_1_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// Builds expressions from operators.
struct Write<'g> {
    graph: &'g mut Graph,
}

impl Write<'_> {
    fn number(&mut self, value: f32) -> String {
        self.graph.add_constant(&name("number"), Constant::scalar(value))
    }

    fn call(&mut self, operator: &str, inputs: &[&str]) -> String {
        self.graph.emit(&name(&operator.to_lowercase()), operator, inputs, vec![])
    }

    fn with(&mut self, operator: &str, x: &str, attributes: Vec<AttributeProto>) -> String {
        self.graph.emit(&name(&operator.to_lowercase()), operator, &[x], attributes)
    }

    /// An operator between a value and a number.
    fn by(&mut self, operator: &str, x: &str, value: f32) -> String {
        let number = self.number(value);
        self.call(operator, &[x, &number])
    }

    /// An operator between a number and a value.
    fn from(&mut self, value: f32, operator: &str, x: &str) -> String {
        let number = self.number(value);
        self.call(operator, &[&number, x])
    }

    /// 1 where the condition holds, otherwise 0.
    fn indicator(&mut self, condition: &str) -> String {
        let to = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
        self.with("Cast", condition, to)
    }

    /// 1 where `low < x < high`, otherwise 0.
    fn between(&mut self, x: &str, low: Option<f32>, high: Option<f32>) -> Option<String> {
        let above = low.map(|low| self.by("Greater", x, low));
        let below = high.map(|high| self.by("Less", x, high));
        let inside = match (above, below) {
            (Some(above), Some(below)) => self.call("And", &[&above, &below]),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return None,
        };
        Some(self.indicator(&inside))
    }

    /// `yes` where the condition holds, otherwise `no`.
    fn either(&mut self, condition: &str, yes: &str, no: &str) -> String {
        self.call("Where", &[condition, yes, no])
    }
}

/// A derivative.
pub(crate) enum Derivative {
    /// A tensor of the shape of x.
    Value(String),
    /// 1 everywhere.
    One,
}

/// Emits `dy/dx` of a node that computes `y = f(x)` elementwise from its first input; `None` for an operator
/// without a rule here.
pub(crate) fn derivative(graph: &mut Graph, node: &NodeProto) -> Option<Derivative> {
    let (x, y) = (input(node, 0)?.to_owned(), output(node).to_owned());
    let (x, y) = (x.as_str(), y.as_str());
    let w = &mut Write { graph };
    let value = match op(node) {
        "Identity" | "Dropout" | "Cast" => return Some(Derivative::One),
        "QuantizeLinear" => rounded(w, node, x)?,
        // y = s(x − z); s
        "DequantizeLinear" => integer::scale_of(w.graph, node).map(|scale| w.number(scale))?,
        // y = max(x, 0); 1 where y > 0
        "Relu" => w.between(y, Some(0.0), None)?,
        // y = min(max(x, low), high); 1 strictly between
        "Clip" => match clip_bounds(w.graph, node)? {
            (None, None) => return Some(Derivative::One),
            (low, high) => w.between(y, low, high)?,
        },
        // y = x if x > 0 else αx
        "LeakyRelu" => leaky(w, x, float(node, "alpha", 0.01)),
        // y = x if x > 0 else α(eˣ − 1); 1 or y + α
        "Elu" => elu(w, y, float(node, "alpha", 1.0)),
        // y = 1/(1 + e⁻ˣ); y(1 − y)
        "Sigmoid" => {
            let rest = w.from(1.0, "Sub", y);
            w.call("Mul", &[y, &rest])
        }
        // y = tanh(x); 1 − y²
        "Tanh" => {
            let square = w.call("Mul", &[y, y]);
            w.from(1.0, "Sub", &square)
        }
        // y = min(max(αx + β, 0), 1); α strictly between
        "HardSigmoid" => {
            let inside = w.between(y, Some(0.0), Some(1.0))?;
            w.by("Mul", &inside, float(node, "alpha", 0.2))
        }
        // y = x · h, h = min(max(x/6 + 1/2, 0), 1); h + x/6 where 0 < h < 1
        "HardSwish" => hard_swish(w, x)?,
        // y = x · sigmoid(αx)
        "Swish" => swish(w, x, float(node, "alpha", 1.0)),
        // y = ln(1 + eˣ); sigmoid(x)
        "Softplus" => w.call("Sigmoid", &[x]),
        // y = x/(1 + |x|); 1/(1 + |x|)²
        "Softsign" => {
            let size = w.call("Abs", &[x]);
            let below = w.by("Add", &size, 1.0);
            let square = w.call("Mul", &[&below, &below]);
            w.call("Reciprocal", &[&square])
        }
        "Gelu" if text(node, "approximate") == Some("tanh") => gelu_tanh(w, x),
        "Gelu" => gelu(w, x),
        // y = erf(x); 2/√π · e^(−x²)
        "Erf" => {
            let bell = bell(w, x, -1.0);
            w.by("Mul", &bell, std::f32::consts::FRAC_2_SQRT_PI)
        }
        "Neg" => w.number(-1.0),
        // y = |x|; 1 above 0, −1 below, 0 at 0
        "Abs" => {
            let (above, below) = (w.between(x, Some(0.0), None)?, w.between(x, None, Some(0.0))?);
            w.call("Sub", &[&above, &below])
        }
        "Sign" => w.number(0.0),
        // y = eˣ; y
        "Exp" => y.to_owned(),
        "Log" => w.call("Reciprocal", &[x]),
        "Sqrt" => root(w, y)?,
        // y = 1/x; −y²
        "Reciprocal" => {
            let square = w.call("Mul", &[y, y]);
            w.call("Neg", &[&square])
        }
        "Pow" => power(w, x, node)?,
        _ => return None,
    };
    Some(Derivative::Value(value))
}

/// y = √x; 1/(2y), and 0 at 0, as PyTorch has it for `std` and `norm`.
fn root(w: &mut Write<'_>, y: &str) -> Option<String> {
    let above = w.between(y, Some(0.0), None)?;
    let none = w.from(1.0, "Sub", &above);
    let twice = w.by("Mul", y, 2.0);
    let below = w.call("Add", &[&twice, &none]);
    Some(w.call("Div", &[&above, &below]))
}

/// y = round(x/s) + z within the range of the integers; 1/s where low ≤ x ≤ high, the values at its ends.
fn rounded(w: &mut Write<'_>, node: &NodeProto, x: &str) -> Option<String> {
    let (low, high) = integer::range_of(w.graph, node)?;
    let inside = w.between(x, Some(low.next_down()), Some(high.next_up()))?;
    let scale = integer::scale_of(w.graph, node)?;
    Some(w.by("Mul", &inside, 1.0 / scale))
}

/// The bounds of a `Clip`, which are inputs since operator set 11; `None` if one is computed.
fn clip_bounds(graph: &Graph, node: &NodeProto) -> Option<(Option<f32>, Option<f32>)> {
    let bound = |index: usize| match input(node, index) {
        None => Some(None),
        Some(name) => graph.constants.get(name)?.to_scalar().map(Some),
    };
    // For a missing bound exporters write the end of float32's range.
    let real = |b: &f32| b.abs() < f32::MAX;
    Some((bound(1)?.filter(real), bound(2)?.filter(real)))
}

fn leaky(w: &mut Write, x: &str, alpha: f32) -> String {
    let positive = w.by("Greater", x, 0.0);
    let (one, alpha) = (w.number(1.0), w.number(alpha));
    w.either(&positive, &one, &alpha)
}

fn elu(w: &mut Write, y: &str, alpha: f32) -> String {
    let negative = w.by("Less", y, 0.0);
    let (below, one) = (w.by("Add", y, alpha), w.number(1.0));
    w.either(&negative, &below, &one)
}

fn hard_swish(w: &mut Write, x: &str) -> Option<String> {
    let derivative = vec![float_attribute("alpha", 1.0 / 6.0), float_attribute("beta", 0.5)];
    let gate = w.with("HardSigmoid", x, derivative);
    let inside = w.between(x, Some(-3.0), Some(3.0))?;
    let sixth = w.by("Mul", x, 1.0 / 6.0);
    let rest = w.call("Mul", &[&sixth, &inside]);
    Some(w.call("Add", &[&gate, &rest]))
}

/// `s + αx·s·(1 − s)`, `s = sigmoid(αx)`.
fn swish(w: &mut Write, x: &str, alpha: f32) -> String {
    let scaled = if alpha == 1.0 { x.to_owned() } else { w.by("Mul", x, alpha) };
    let s = w.call("Sigmoid", &[&scaled]);
    let rest = w.from(1.0, "Sub", &s);
    let bump = w.call("Mul", &[&s, &rest]);
    let moved = w.call("Mul", &[&scaled, &bump]);
    w.call("Add", &[&s, &moved])
}

/// `e^(factor · x²)`.
fn bell(w: &mut Write, x: &str, factor: f32) -> String {
    let square = w.call("Mul", &[x, x]);
    let scaled = w.by("Mul", &square, factor);
    w.call("Exp", &[&scaled])
}

/// y = x·Φ(x), Φ(x) = (1 + erf(x/√2))/2: `Φ(x) + x · e^(−x²/2)/√(2π)`.
fn gelu(w: &mut Write, x: &str) -> String {
    let scaled = w.by("Mul", x, FRAC_1_SQRT_2);
    let erf = w.call("Erf", &[&scaled]);
    let sum = w.by("Add", &erf, 1.0);
    let phi = w.by("Mul", &sum, 0.5);
    let bell = bell(w, x, -0.5);
    let density = w.by("Mul", &bell, FRAC_1_SQRT_2 * std::f32::consts::FRAC_2_SQRT_PI / 2.0);
    let moved = w.call("Mul", &[x, &density]);
    w.call("Add", &[&phi, &moved])
}

/// y = x(1 + t)/2, t = tanh(c(x + 0.044715x³)), c = √(2/π):
/// `(1 + t)/2 + x/2 · (1 − t²) · c(1 + 3·0.044715x²)`.
fn gelu_tanh(w: &mut Write, x: &str) -> String {
    let c = FRAC_1_SQRT_2 * std::f32::consts::FRAC_2_SQRT_PI;
    let cubic = 0.044_715;
    let square = w.call("Mul", &[x, x]);
    let inner = w.by("Mul", &square, c * cubic);
    let inner = w.by("Add", &inner, c);
    let angle = w.call("Mul", &[x, &inner]);
    let t = w.call("Tanh", &[&angle]);
    let sum = w.by("Add", &t, 1.0);
    let first = w.by("Mul", &sum, 0.5);
    let derivative = w.by("Mul", &square, 3.0 * c * cubic);
    let derivative = w.by("Add", &derivative, c);
    let t_square = w.call("Mul", &[&t, &t]);
    let rest = w.from(1.0, "Sub", &t_square);
    let half = w.by("Mul", x, 0.5);
    let second = w.call("Mul", &[&half, &rest]);
    let second = w.call("Mul", &[&second, &derivative]);
    w.call("Add", &[&first, &second])
}

/// y = xᵖ for a constant p: `p · xᵖ⁻¹`.
fn power(w: &mut Write, x: &str, node: &NodeProto) -> Option<String> {
    let p = w.graph.constants.get(input(node, 1)?)?.to_scalar()?;
    let lower = if p == 2.0 { x.to_owned() } else { w.by("Pow", x, p - 1.0) };
    Some(w.by("Mul", &lower, p))
}

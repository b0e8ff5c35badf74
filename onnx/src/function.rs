//! Functions that a model defines itself (`ModelProto.functions`): reads them and replaces each call by the
//! function's nodes.
//!
//! `rten-onnx` skips functions and references to their attributes, so both are decoded here. A call stays in
//! the graph, and is refused later as an operator that no engine supports, if the function was written for
//! another version of the standard operator set, refers to attributes inside a subgraph, or shares its name
//! with another one (overloads, which are not decoded), and if the call lies inside a subgraph, more than 32
//! calls deep, or would make more than 100,000 nodes.

use std::collections::HashMap;

use rten_onnx::onnx::{AttributeProto, GraphProto, NodeProto, OperatorSetIdProto};
use rten_onnx::protobuf::{
    DecodeMessage, Fields, OwnedValues, ProtobufError, ReadValue, ValueReader,
};

use crate::sets::{is_standard, opset};

/// Rounds of replacing calls: deeper ones stay.
const MAX_DEPTH: usize = 32;
/// Most nodes after replacing: functions that call each other twice double a file at each level.
const MAX_NODES: usize = 100_000;

/// A function of the model.
#[derive(Default)]
struct Function {
    name: String,
    domain: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    nodes: Vec<NodeProto>,
    opsets: Vec<OperatorSetIdProto>,
    /// Attributes with a default value.
    defaults: Vec<AttributeProto>,
}

/// For each node of a function, the attributes that it takes from the call, each with the name of the call's
/// attribute.
#[derive(Default)]
struct References(Vec<Vec<(String, String)>>);

/// A node's attribute without its value; it need not refer to anything.
#[derive(Default)]
struct Reference {
    name: String,
    parameter: Option<String>,
    /// Whether a subgraph inside it refers to parameters.
    deeper: bool,
}

/// Decodes one message type: the fields given by number, all others skipped.
macro_rules! decode {
    ($kind:ty, $made:ident, $field:ident, { $($number:pat => $what:expr),* $(,)? }) => {
        impl DecodeMessage for $kind {
            type Types = OwnedValues;

            fn decode_fields<R: ReadValue<Types = Self::Types>>(
                mut fields: Fields<R>,
            ) -> Result<Self, ProtobufError> {
                let mut $made = Self::default();
                while let Some(mut $field) = fields.next()? {
                    match $field.number() {
                        $($number => $what,)*
                        _ => $field.skip()?,
                    }
                }
                Ok($made)
            }
        }
    };
}

decode!(Function, made, field, {
    1 => made.name = field.read_string()?,
    4 => made.inputs.push(field.read_string()?),
    5 => made.outputs.push(field.read_string()?),
    7 => made.nodes.push(NodeProto::decode_field(&mut field)?),
    9 => made.opsets.push(OperatorSetIdProto::decode_field(&mut field)?),
    10 => made.domain = field.read_string()?,
    11 => made.defaults.push(AttributeProto::decode_field(&mut field)?),
});

// The following types decode the same messages again, but of attributes only the references in them.

/// The references of a node's attributes.
#[derive(Default)]
struct NodeReferences(Vec<Reference>);
#[derive(Default)]
struct GraphReferences(Vec<NodeReferences>);
#[derive(Default)]
struct FunctionReferences(Vec<NodeReferences>);
#[derive(Default)]
struct Functions(Vec<Function>);
#[derive(Default)]
struct AllReferences(Vec<FunctionReferences>);

decode!(Reference, made, field, {
    1 => made.name = field.read_string()?,
    6 | 11 => made.deeper |= GraphReferences::decode_field(&mut field)?.any(),
    21 => made.parameter = Some(field.read_string()?).filter(|name| !name.is_empty()),
});
decode!(NodeReferences, made, field, { 5 => made.0.push(Reference::decode_field(&mut field)?) });
decode!(GraphReferences, made, field, { 1 => made.0.push(NodeReferences::decode_field(&mut field)?) });
decode!(FunctionReferences, made, field, { 7 => made.0.push(NodeReferences::decode_field(&mut field)?) });
decode!(Functions, made, field, { 25 => made.0.push(Function::decode_field(&mut field)?) });
decode!(AllReferences, made, field, { 25 => made.0.push(FunctionReferences::decode_field(&mut field)?) });

impl GraphReferences {
    fn any(&self) -> bool {
        self.0.iter().flat_map(|n| &n.0).any(|a| a.deeper || a.parameter.is_some())
    }
}

impl References {
    /// `None` if a subgraph refers to parameters.
    fn of(found: FunctionReferences) -> Option<Self> {
        let node = |node: NodeReferences| {
            let named = |a: Reference| {
                (!a.deeper).then(|| a.parameter.map(|parameter| (a.name, parameter)))
            };
            let named: Option<Vec<_>> = node.0.into_iter().map(named).collect();
            Some(named?.into_iter().flatten().collect())
        };
        Some(Self(found.0.into_iter().map(node).collect::<Option<_>>()?))
    }
}

/// The functions of a model that can be written in place of their calls.
pub(crate) struct Library(HashMap<(String, String), (Function, References)>);

/// A domain's name; `ai.onnx` and the empty name are the same.
fn domain(given: Option<&str>) -> String {
    match given.unwrap_or_default() {
        "ai.onnx" => String::new(),
        other => other.to_owned(),
    }
}

impl Library {
    /// Reads the functions of a whole model; `sets` are the operator sets of its graph.
    ///
    /// # Errors
    /// [`ProtobufError`] if a field cannot be decoded.
    pub(crate) fn read(bytes: &[u8], sets: &[OperatorSetIdProto]) -> Result<Self, ProtobufError> {
        let functions = Functions::decode(ValueReader::from_buf(bytes))?.0;
        if functions.is_empty() {
            return Ok(Self(HashMap::new()));
        }
        let references = AllReferences::decode(ValueReader::from_buf(bytes))?.0;
        let same =
            |f: &Function| !f.opsets.iter().any(is_standard) || opset(&f.opsets) == opset(sets);
        let key = |function: &Function| (domain(Some(&function.domain)), function.name.clone());
        let mut times: HashMap<_, usize> = HashMap::new();
        for function in &functions {
            *times.entry(key(function)).or_default() += 1;
        }
        let usable = |function: &Function| times.get(&key(function)) == Some(&1) && same(function);
        let kept = functions.into_iter().zip(references).filter(|(function, _)| usable(function));
        let named = kept.filter_map(|(function, found)| {
            Some((key(&function), (function, References::of(found)?)))
        });
        Ok(Self(named.collect()))
    }

    /// The nodes with every call of a function replaced by the function's nodes.
    pub(crate) fn inline(&self, nodes: Vec<NodeProto>) -> Vec<NodeProto> {
        let (mut nodes, mut calls) = (nodes, 0);
        for _ in 0..MAX_DEPTH {
            if self.0.is_empty() || !nodes.iter().any(|node| self.called(node).is_some()) {
                break;
            }
            let mut left = MAX_NODES.saturating_sub(nodes.len());
            let mut made = Vec::with_capacity(nodes.len());
            for node in nodes {
                match self.called(&node).filter(|(function, _)| function.nodes.len() <= left) {
                    Some((function, references)) => {
                        left -= function.nodes.len();
                        calls += 1;
                        made.extend(body(function, references, &node, calls));
                    }
                    None => made.push(node),
                }
            }
            nodes = made;
        }
        nodes
    }

    fn called(&self, node: &NodeProto) -> Option<&(Function, References)> {
        let name = node.op_type.clone().unwrap_or_default();
        self.0.get(&(domain(node.domain.as_deref()), name))
    }
}

/// The nodes of a function for one call: its inputs, outputs and parameters are those of the call, and all
/// other names begin with the call's.
fn body(
    function: &Function,
    references: &References,
    call: &NodeProto,
    number: usize,
) -> Vec<NodeProto> {
    let label = match call.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => format!("{}_{number}", function.name),
    };
    let mut names: HashMap<String, String> = HashMap::new();
    for made in function.nodes.iter().flat_map(|node| &node.output).filter(|o| !o.is_empty()) {
        names.insert(made.clone(), format!("{label}/{made}:{number}"));
    }
    let given = |formal: &[String], actual: &[String]| {
        let name = |at| actual.get(at).cloned().unwrap_or_default();
        formal.iter().enumerate().map(|(at, f)| (f.clone(), name(at))).collect::<Vec<_>>()
    };
    let outputs = given(&function.outputs, &call.output);
    names.extend(outputs.into_iter().filter(|(_, actual)| !actual.is_empty()));
    names.extend(given(&function.inputs, &call.input));
    let parameter = |name: &str| {
        let named = |a: &&AttributeProto| a.name.as_deref() == Some(name);
        call.attribute.iter().find(named).or_else(|| function.defaults.iter().find(named))
    };
    let mut nodes = function.nodes.clone();
    for (at, (node, taken)) in nodes.iter_mut().zip(&references.0).enumerate() {
        rename(node, &names);
        let own = node.name.take().filter(|name| !name.is_empty());
        node.name = Some(format!("{label}/{}", own.unwrap_or_else(|| format!("node_{at}"))));
        for (attribute, from) in taken {
            node.attribute.retain(|a| a.name.as_ref() != Some(attribute));
            let value = parameter(from).cloned();
            let value = value.map(|v| AttributeProto { name: Some(attribute.clone()), ..v });
            node.attribute.extend(value);
        }
    }
    // A function may give back one of its inputs.
    for (formal, actual) in function.outputs.iter().zip(&call.output) {
        if let Some(source) = names.get(formal).filter(|s| !actual.is_empty() && *s != actual) {
            nodes.push(NodeProto {
                op_type: Some("Identity".to_owned()),
                input: vec![source.clone()],
                output: vec![actual.clone()],
                name: Some(format!("{label}/{formal}")),
                ..NodeProto::default()
            });
        }
    }
    nodes
}

/// Renames what a node reads and computes, and what its subgraphs read from outside.
pub fn rename(node: &mut NodeProto, names: &HashMap<String, String>) {
    for name in node.input.iter_mut().chain(&mut node.output) {
        if let Some(new) = names.get(name.as_str()) {
            name.clone_from(new);
        }
    }
    for graph in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
        rename_inside(graph, names);
    }
}

/// Renames what the nodes of a subgraph read from outside; names of its own values stay.
pub fn rename_inside(graph: &mut GraphProto, names: &HashMap<String, String>) {
    let own = graph.input.iter().filter_map(|v| v.name.as_ref());
    let own = own.chain(graph.initializer.iter().filter_map(|t| t.name.as_ref()));
    let own = own.chain(graph.node.iter().flat_map(|n| &n.output));
    let mut outer = names.clone();
    own.for_each(|name| drop(outer.remove(name)));
    graph.node.iter_mut().for_each(|node| rename(node, &outer));
    for value in graph.output.iter_mut().filter_map(|v| v.name.as_mut()) {
        if let Some(new) = outer.get(value.as_str()) {
            value.clone_from(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of a message: its number, and a text or another message.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let key = u16::from(number) << 3 | 2;
        let key = [key as u8 & 0x7f | 0x80, (key >> 7) as u8];
        [&key[..], &[bytes.len() as u8], bytes].concat()
    }

    /// A model's function with one node, which calls this operator.
    fn function(name: &str, operator: &str) -> Vec<u8> {
        let node = field(4, operator.as_bytes());
        field(25, &[field(1, name.as_bytes()), field(7, &node)].concat())
    }

    #[test]
    fn a_call_of_one_of_two_functions_of_a_name_stays() {
        let model = [function("f", "Relu"), function("g", "Exp"), function("f", "Sin")].concat();
        let library = Library::read(&model, &[]).expect("decodes");
        let call =
            |name: &str| NodeProto { op_type: Some(name.to_owned()), ..NodeProto::default() };
        let nodes = library.inline(vec![call("f"), call("g")]);
        let operators: Vec<_> = nodes.iter().filter_map(|node| node.op_type.as_deref()).collect();
        assert_eq!(operators, ["f", "Exp"]);
    }
}

//! Encodes a model whose graphs all have a name, which ONNX demands, ONNX Runtime checks and `rten-onnx` does
//! not write. Graphs inside attributes, such as the body of a `Loop`, have the name of their attribute.

use rten_onnx::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto};
use rten_onnx::protobuf::{EncodeMessage, MessageWriter, ProtobufError, WriteValue};

/// Field numbers of onnx.proto.
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_NAME: u64 = 2;
const NODE_ATTRIBUTE: u64 = 5;
const ATTRIBUTE_GRAPH: u64 = 6;

/// A model and its graph, kept apart.
pub(super) struct NamedModel {
    rest: ModelProto,
    graph: NamedGraph,
}

impl NamedModel {
    /// The model with this graph under this name. A graph in `rest` is replaced.
    pub(super) fn new(mut rest: ModelProto, graph: GraphProto, name: &str) -> Self {
        rest.graph = None;
        Self { rest, graph: NamedGraph::new(graph, name) }
    }
}

struct NamedGraph {
    name: String,
    nodes: Vec<NamedNode>,
    rest: GraphProto,
}

impl NamedGraph {
    fn new(mut rest: GraphProto, name: &str) -> Self {
        let nodes = std::mem::take(&mut rest.node).into_iter().map(NamedNode::new).collect();
        Self { name: name.to_owned(), nodes, rest }
    }
}

/// A node, and those of its attributes that are graphs.
struct NamedNode {
    rest: NodeProto,
    graphs: Vec<NamedAttribute>,
}

/// An attribute and the graph that is its value.
struct NamedAttribute {
    rest: AttributeProto,
    graph: NamedGraph,
}

impl NamedNode {
    fn new(mut rest: NodeProto) -> Self {
        let attributes = std::mem::take(&mut rest.attribute);
        let mut graphs = Vec::new();
        for mut attribute in attributes {
            match attribute.g.take() {
                None => rest.attribute.push(attribute),
                Some(graph) => {
                    let graph =
                        NamedGraph::new(graph, attribute.name.as_deref().unwrap_or("graph"));
                    graphs.push(NamedAttribute { rest: attribute, graph });
                }
            }
        }
        Self { rest, graphs }
    }
}

impl EncodeMessage for NamedModel {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        self.rest.encode_fields(fields)?;
        fields.write_message(MODEL_GRAPH, &self.graph)
    }
}

impl EncodeMessage for NamedGraph {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        fields.write_repeated_message(GRAPH_NODE, &self.nodes)?;
        self.rest.encode_fields(fields)?;
        fields.write_string(GRAPH_NAME, &self.name)
    }
}

impl EncodeMessage for NamedNode {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        self.rest.encode_fields(fields)?;
        fields.write_repeated_message(NODE_ATTRIBUTE, &self.graphs)
    }
}

impl EncodeMessage for NamedAttribute {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        self.rest.encode_fields(fields)?;
        fields.write_message(ATTRIBUTE_GRAPH, &self.graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rten_onnx::onnx::AttributeType;
    use rten_onnx::protobuf::ValueWriter;

    #[test]
    fn a_graph_inside_an_attribute_has_a_name() {
        let node = |attribute| NodeProto {
            op_type: Some("If".to_owned()),
            attribute,
            ..Default::default()
        };
        let with = |name: &str, node| AttributeProto {
            name: Some(name.to_owned()),
            g: Some(GraphProto { node: vec![node], ..Default::default() }),
            r#type: Some(AttributeType::GRAPH),
            ..Default::default()
        };
        let inner = node(vec![with("inside", node(Vec::new()))]);
        let outer =
            GraphProto { node: vec![node(vec![with("outside", inner)])], ..Default::default() };
        let mut bytes = Vec::new();
        let model = NamedModel::new(ModelProto::default(), outer, "whole");
        model.encode(ValueWriter::new(&mut bytes)).unwrap();
        for name in ["whole", "outside", "inside"] {
            // The tag of GraphProto.name (field 2, with a length), the length, and the name.
            let named = [&[2 << 3 | 2, name.len() as u8], name.as_bytes()].concat();
            assert_eq!(
                bytes.windows(named.len()).filter(|found| *found == named).count(),
                1,
                "{name}"
            );
        }
    }
}

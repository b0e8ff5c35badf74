//! Attention as transformers write it whose tokens do not all attend to all: Swin's windows, moved and
//! masked, PVT's fewer keys, a class token as the only query with its derivative, and heads that lie apart.
//! Against the answers of ONNX Runtime 1.32 on the same graphs.
#![allow(clippy::unwrap_used, reason = "a test that cannot pack its graph has failed")]

use cellnet::Model;
use cellnet::plan::Step;

mod common;
use common::lines::{EMBEDDED, check, packed};

/// A block of Swin on a map `[1, 4, 6, 8]`, from `x` to `y`, within windows of 2 × 3 pixels and with two
/// heads; `summands` are nodes from the scores `{y}l` to `{y}m`.
fn block(x: &str, y: &str, summands: &str) -> String {
    "
    LayerNormalization | {x} gamma beta | {y}c | axis=-1
    Reshape | {y}c [1,2,2,2,3,8] | {y}d
    Transpose | {y}d | {y}e | perm=[0,1,3,2,4,5]
    Reshape | {y}e [4,6,8] | {y}f
    MatMul | {y}f joined | {y}g
    Add | {y}g shift | {y}h
    Reshape | {y}h [4,6,3,2,4] | {y}i
    Transpose | {y}i | {y}j | perm=[2,0,3,1,4]
    Gather | {y}j 0 | {y}q | axis=0
    Gather | {y}j 1 | {y}k | axis=0
    Gather | {y}j 2 | {y}v | axis=0
    Mul | {y}q 0.5 | {y}q1
    Transpose | {y}k | {y}k1 | perm=[0,1,3,2]
    MatMul | {y}q1 {y}k1 | {y}l
    {summands}
    Softmax | {y}m | {y}n | axis=-1
    MatMul | {y}n {y}v | {y}o
    Transpose | {y}o | {y}p | perm=[0,2,1,3]
    Reshape | {y}p [4,6,8] | {y}r
    MatMul | {y}r project | {y}s
    Reshape | {y}s [1,2,2,2,3,8] | {y}t
    Transpose | {y}t | {y}u | perm=[0,1,3,2,4,5]
    Reshape | {y}u [1,4,6,8] | {y}"
        .replace("{summands}", summands)
        .replace("{x}", x)
        .replace("{y}", y)
}

const STEM: &str = "
    Conv | x patch2 | a | strides=[2,2]
    Transpose | a | b | perm=[0,2,3,1]";

const MOVED: &str = "
    Slice | b1 [1] [9] [1] | ra
    Slice | b1 [0] [1] [1] | rb
    Concat | ra rb | rc | axis=1
    Slice | rc [2] [9] [2] | rd
    Slice | rc [0] [2] [2] | re
    Concat | rd re | moved | axis=2";

const BACK: &str = "
    Slice | w2 [-1] [9] [1] | sa
    Slice | w2 [0] [-1] [1] | sb
    Concat | sa sb | sc | axis=1
    Slice | sc [-2] [9] [2] | sd
    Slice | sc [0] [-2] [2] | se
    Concat | sd se | back | axis=2
    Add | b1 back | b2";

const MASKED: &str = "
    Add | {y}l heads | {y}l1
    Reshape | {y}l1 [1,4,2,6,6] | {y}l2
    Add | {y}l2 mask | {y}l3
    Reshape | {y}l3 [4,2,6,6] | {y}m";

/// Four pixels become one by a reshape, then by slices.
const MERGED: &str = "
    Reshape | b2 [1,2,2,3,2,8] | c1
    Transpose | c1 | c2 | perm=[0,1,3,4,2,5]
    Reshape | c2 [1,2,3,32] | c3
    LayerNormalization | c3 gamma4 beta4 | c4 | axis=-1
    MatMul | c4 merge | c5
    Slice | c5 [0] [9] [1] [2] | c6
    Slice | c5 [1] [9] [1] [2] | c7
    Concat | c6 c7 | c8 | axis=3
    Slice | c8 [0] [9] [2] [2] | c9
    ReduceMean | c9 [1,2] | d1 | keepdims=0
    Gemm | d1 end | y | transB=1";

fn swin() -> String {
    let first = block("b", "w1", "Add | {y}l heads | {y}m");
    let second = block("moved", "w2", MASKED);
    format!("{STEM}{first}\n    Add | b w1 | b1{MOVED}{second}{BACK}{MERGED}")
}

const SWIN: &[f32] = &[1.284_927_6, 2.136_887, 2.159_838, -1.9550437, -2.455456];

/// Keys and values of a map a quarter as large as that of queries.
const REDUCED: &str = "
    Conv | x patch2 | a | strides=[2,2]
    Reshape | a [1,8,24] | b
    Transpose | b | tokens | perm=[0,2,1]
    MatMul | tokens project | q0
    Reshape | q0 [1,24,2,4] | q1
    Transpose | q1 | q | perm=[0,2,1,3]
    Conv | a smaller | c | strides=[2,2]
    Reshape | c [1,8,6] | d
    Transpose | d | e | perm=[0,2,1]
    LayerNormalization | e gamma beta | f | axis=-1
    MatMul | f keys | g
    Reshape | g [1,6,2,2,4] | h
    Transpose | h | i | perm=[2,0,3,1,4]
    Gather | i 0 | k | axis=0
    Gather | i 1 | v | axis=0
    Transpose | k | k1 | perm=[0,1,3,2]
    MatMul | q k1 | l
    Mul | l 0.5 | m
    Softmax | m | n | axis=-1
    MatMul | n v | o
    Transpose | o | p | perm=[0,2,1,3]
    Reshape | p [1,24,8] | r
    Add | tokens r | s
    ReduceMean | s [1] | t | keepdims=0
    Gemm | t head | y | transB=1";

const FEWER: &[f32] = &[0.1388025, -0.0838558, -0.0323152, 0.0273406, 0.0300546];

/// The first token is the only query; what follows is the form of a heatmap's derivative for five classes.
const CLASS: &str = "
    Slice | i [0] [1] [0] | q0
    Slice | q0 [0] [1] [3] | q1
    Reshape | q1 [1,2,1,4] | q
    Gather | i 1 | k | axis=0
    Gather | i 2 | v | axis=0
    Mul | q 0.5 | q2
    Transpose | k | k1 | perm=[0,1,3,2]
    MatMul | q2 k1 | scores
    Softmax | scores | shares | axis=-1
    MatMul | shares v | j
    Transpose | j | l | perm=[0,2,1,3]
    Reshape | l [1,1,8] | m
    MatMul | m project | n
    Mul | classes n | o
    Reshape | o [5,1,1,2,4] | p
    Reshape | p [5,1,2,1,4] | slope
    Transpose | v | v1 | perm=[0,1,3,2]
    MatMul | slope v1 | r
    Slice | shares [1] [7] [3] [1] | s
    ReduceSum | s [3] | t | keepdims=1
    MatMul | t slope | of_values
    Mul | r shares | u
    ReduceSum | u [4] | w | keepdims=1
    Sub | r w | z
    Mul | z shares | aa
    Slice | aa [1] [7] [4] [1] | ab
    ReduceSum | ab [4] | ac | keepdims=1
    Reshape | q [1,2,4,1] | ad
    MatMul | ad ac | ae
    Mul | ae 0.5 | af
    Reshape | af [5,1,1,2,1,4] | of_keys
    Reshape | of_values [5,1,1,2,1,4] | ag
    Concat | zeros of_keys ag | ah | axis=1
    Reshape | ah [5,24] | ai
    Gemm | ai joined | aj | transB=1
    Slice | e [1] [7] [1] | ak
    Reshape | ak [6,8] | al
    Gemm | aj al | am | transB=1
    Reshape | am [1,5,2,3] | y";

/// Queries, keys and values of a head follow each other, and then those of the next head.
const APART: &str = "
    Conv | x patch4 | a | strides=[4,4]
    Reshape | a [1,8,6] | b
    Transpose | b | c | perm=[0,2,1]
    MatMul | c joined | d
    Reshape | d [1,6,2,12] | e
    Slice | e [0] [2] [3] | q0
    Slice | e [2] [4] [3] | k0
    Slice | e [4] [12] [3] | v0
    Transpose | q0 | q | perm=[0,2,1,3]
    Transpose | k0 | k | perm=[0,2,3,1]
    Transpose | v0 | v | perm=[0,2,1,3]
    MatMul | q k | f
    Add | f heads | g
    Softmax | g | h | axis=-1
    MatMul | h v | i
    Transpose | i | j | perm=[0,2,1,3]
    Reshape | j [1,6,16] | l
    ReduceMean | l [1] | m | keepdims=0
    Gemm | m end | y | transB=1";

/// As Swin V2: queries and keys are divided by their lengths, the scores of each head have a factor, and the
/// map is padded to whole windows of 3 × 4 pixels.
const PADDED: &str = "
    Conv | x patch2 | a | strides=[2,2]
    Transpose | a | b | perm=[0,2,3,1]
    Pad | b [0,0,0,0,0,2,2,0] | c
    Slice | c [1] [9] [1] | ra
    Slice | c [0] [1] [1] | rb
    Concat | ra rb | rc | axis=1
    Reshape | rc [1,2,3,2,4,8] | d
    Transpose | d | e | perm=[0,1,3,2,4,5]
    Reshape | e [4,12,8] | f
    MatMul | f joined | g
    Add | g shift | h
    Reshape | h [4,12,3,2,4] | i
    Transpose | i | j | perm=[2,0,3,1,4]
    Gather | j 0 | q | axis=0
    Gather | j 1 | k | axis=0
    Gather | j 2 | v | axis=0
    ReduceL2 | q [-1] | q1 | keepdims=1
    Max | q1 0.001 | q2
    Div | q q2 | q3
    ReduceL2 | k [-1] | k1 | keepdims=1
    Max | k1 0.001 | k2
    Div | k k2 | k3
    Transpose | k3 | k4 | perm=[0,1,3,2]
    MatMul | q3 k4 | l
    Mul | l factors | l1
    Add | l1 tokens12 | m
    Softmax | m | n | axis=-1
    MatMul | n v | o
    Transpose | o | p | perm=[0,2,1,3]
    Reshape | p [4,12,8] | r
    MatMul | r project | s
    Reshape | s [1,2,2,3,4,8] | t
    Transpose | t | u | perm=[0,1,3,2,4,5]
    Reshape | u [1,6,8,8] | w
    Slice | w [-1] [9] [1] | sa
    Slice | w [0] [-1] [1] | sb
    Concat | sa sb | z | axis=1
    Slice | z [0] [4] [1] | za
    Slice | za [0] [6] [2] | zb
    Add | b zb | zc
    ReduceMean | zc [1,2] | zd | keepdims=0
    Gemm | zd head | y | transB=1";

fn attentions(model: &Model) -> Vec<([u32; 2], bool, [u32; 2])> {
    let steps = model.plan().steps.iter();
    let attention = steps.filter_map(|step| match step {
        Step::Attention(s) => Some((s.groups, s.is_near, s.shift)),
        _ => None,
    });
    attention.collect()
}

#[test]
fn windows_are_moved_around_the_edge_without_a_copy() {
    let model = check(&swin(), SWIN);
    assert_eq!(attentions(&model), [([2, 2], true, [0, 0]), ([2, 2], true, [1, 2])]);
}

/// As transformers and Keras write the scores, PyTorch a map that is moved by nothing, and a layer norm by
/// exporters for operator sets before 17.
#[test]
fn other_forms_of_the_same_layers() {
    let plain = "    Softmax | w1m | w1n | axis=-1";
    let softmax =
        |before: &str, from: &str| format!("{before}\n    Softmax | {from} | w1n | axis=-1");
    let cast = softmax("    Cast | w1m | w1x | to=1", "w1x");
    let ones = "    Reshape | w1m [1,4,2,6,6,1] | w1x\n    Reshape | w1x [4,2,6,6] | w1z";
    let between = "
    Softmax | w1m | w1x | axis=-1
    Reshape | w1x [1,4,2,6,1,6] | w1z
    Reshape | w1z [4,2,6,6] | w1n";
    let norm = "    LayerNormalization | c3 gamma4 beta4 | c4 | axis=-1";
    let spelled = "
    ReduceMean | c3 [-1] | g1 | keepdims=1
    Sub | c3 g1 | g2
    Mul | g2 g2 | g3
    ReduceMean | g3 [-1] | g4 | keepdims=1
    Add | g4 0.00001 | g5
    Sqrt | g5 | g6
    Div | g2 g6 | g7
    Mul | g7 gamma4 | g8
    Add | g8 beta4 | c4";
    let joined = "    Concat | ra rb | rc | axis=1";
    let by_nothing = "
    Concat | ra rb | r0 | axis=1
    Slice | r0 [0] [9] [2] | r1
    Slice | r0 [0] [0] [2] | r2
    Concat | r1 r2 | rc | axis=2";
    let by_a_whole_side =
        by_nothing.replace("r0 [0] [9]", "r0 [6] [9]").replace("[0] [0]", "[0] [6]");
    let forms = [
        (plain, cast.as_str()),
        (plain, &softmax(ones, "w1z")),
        (plain, between),
        (norm, spelled),
        (joined, by_nothing),
        (joined, &by_a_whole_side),
    ];
    for (part, form) in forms {
        let text = swin();
        assert!(text.contains(part), "{part}");
        check(&text.replace(part, form), SWIN);
    }
}

/// As transformers writes the mean over tokens, and Keras a layer norm of them.
#[test]
fn global_pooling_of_tokens() {
    let mean = "    ReduceMean | s [1] | t | keepdims=0";
    let pooled = "
    Transpose | s | s1 | perm=[0,2,1]
    GlobalAveragePool | s1 | s2
    Flatten | s2 | t";
    let norm = "    LayerNormalization | e gamma beta | f | axis=-1";
    let spelled = "
    GlobalAveragePool | e | g1
    Sub | e g1 | g2
    Mul | g2 g2 | g3
    GlobalAveragePool | g3 | g4
    Add | g4 0.00001 | g5
    Sqrt | g5 | g6
    Div | g2 g6 | g7
    Mul | g7 gamma | g8
    Add | g8 beta | f";
    for (part, form) in [(mean, pooled), (norm, spelled)] {
        assert!(REDUCED.contains(part), "{part}");
        check(&REDUCED.replace(part, form), FEWER);
    }
}

#[test]
fn cosines_within_windows_of_a_padded_map() {
    let model = check(PADDED, &[0.3601307, 0.2524321, 0.072113, 0.0476594, 0.0379752]);
    assert_eq!(attentions(&model), [([2, 2], true, [1, 0])]);
}

#[test]
fn many_queries_to_few_keys() {
    let model = check(REDUCED, FEWER);
    assert_eq!(attentions(&model), [([1, 1], false, [0, 0])]);
}

#[test]
fn a_class_token_is_the_only_query() {
    let text = format!("{EMBEDDED}{CLASS}");
    let model = check(
        &text,
        &[
            -0.0215182, -0.1205351, 0.0629085, 0.068262, -0.140238, 0.0869251, -0.0276177,
            0.0678505, -0.0689276, -0.1177781, 0.0982863, -0.1104139, -0.0415731, 0.0562413,
            -0.0690909, -0.1068897, 0.0723336, -0.0957268, -0.0572942, 0.1978124, -0.2034215,
            -0.158852, 0.1566752, -0.1708843, -0.0666642, 0.1939948, -0.2055473, -0.1536351,
            0.1437012, -0.1622321,
        ],
    );
    assert_eq!(attentions(&model).len(), 1);
}

#[test]
fn heads_that_lie_apart() {
    let model = check(APART, &[-0.371789, 0.3431448, 0.3418443, -0.0154854, -0.2450814]);
    assert_eq!(attentions(&model).len(), 1);
}

/// What would be wrong, or too large, is not packed.
#[test]
fn other_uses_of_scores_and_moved_maps_are_refused() {
    let refused = |text: &str, words: &str| {
        let error = packed(text).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    let block_with = |summands: &str| {
        let block = block("b", "w1", summands);
        format!("{STEM}{block}\n    ReduceMean | w1 [1,2] | y | keepdims=0")
    };
    refused(&block_with("Add | {y}l both | {y}m"), "it adds [4, 2, 6, 6]");
    refused(&block_with("Relu | {y}l | {y}m"), "more than one query");
    refused(&block_with("Add | {y}l {y}l | {y}m"), "computed values");
    let moved = MOVED.replace("b1", "b");
    refused(
        &format!("{STEM}{moved}\n    Add | b moved | z\n    ReduceMean | z [1,2] | y"),
        "around",
    );
    refused(&block_with("Mul | {y}l heads | {y}m"), "more than one number");
    // Two heads and two groups, in the other order on one side: the dimensions are the same.
    let swapped = |key: &str, value: &str| {
        "{STEM}
        Reshape | b [4,2,3,8] | c
        Transpose | c | d | perm=[1,0,2,3]
        Reshape | d [2,12,2,4] | e
        Transpose | e | q | perm=[0,2,1,3]
        Transpose | e | k | perm={key}
        Transpose | e | v | perm={value}
        MatMul | q k | f
        Softmax | f | g | axis=-1
        MatMul | g v | h
        Transpose | h | i | perm=[0,2,1,3]
        ReduceMean | i [1] | y"
            .replace("{STEM}", STEM)
            .replace("{key}", key)
            .replace("{value}", value)
    };
    refused(&swapped("[0,2,3,1]", "[2,0,1,3]"), "values with the axes");
    refused(&swapped("[2,0,3,1]", "[0,2,1,3]"), "a product of computed");
    let pooled = "Transpose | moved | z | perm=[0,3,1,2]\n    Conv | z smaller | y";
    refused(&format!("{STEM}{moved}\n    {pooled}"), "around the edge");
    refused(&format!("{STEM}{moved}\n    Identity | moved | y"), "around its edge");
}

//! Attention and parts of tensors as exporters write them, against the answers of ONNX Runtime 1.32 on the
//! same graphs: a small ViT, MobileViT's patches and Flatten before a dense layer, GhostNet's concatenations.
#![allow(clippy::unwrap_used, reason = "a test that cannot pack its graph has failed")]

use cellnet::Model;
use cellnet::plan::Step;

mod common;
use common::lines::{EMBEDDED, check};

const TOKENS: &str = "
    Slice | i [0] [1] [0] | q0
    Squeeze | q0 [0] | q1
    Slice | i [1] [2] [0] | k0
    Squeeze | k0 [0] | k1
    Slice | i [2] [3] [0] | v0
    Squeeze | v0 [0] | v1
    Mul | q1 0.5 | q2
    Transpose | k1 | k2 | perm=[0,1,3,2]
    MatMul | q2 k2 | scores
    Softmax | scores | shares | axis=-1
    MatMul | shares v1 | j
    Transpose | j | k | perm=[0,2,1,3]
    Reshape | k [1,7,8] | l
    MatMul | l project | m
    Add | tokens m | n
    LayerNormalization | n beta gamma | o | axis=-1
    MatMul | o wide | p
    Div | p 1.4142135 | r
    Erf | r | s
    Add | s 1 | t
    Mul | 0.5 t | u
    Mul | p u | v
    MatMul | v narrow | w
    Add | n w | z
    Gather | z 0 | aa | axis=1
    Gemm | aa head | y | transB=1";

const PATCHES: &str = "
    Conv | x patch2 | a | strides=[2,2]
    Reshape | a [16,2,3,2] | b
    Transpose | b | c | perm=[0,2,1,3]
    Reshape | c [1,8,6,4] | d
    Transpose | d | e | perm=[0,3,2,1]
    Reshape | e [4,6,8] | tokens
    LayerNormalization | tokens gamma beta | f | axis=-1
    MatMul | f joined | g
    Reshape | g [4,6,3,2,4] | h
    Transpose | h | i | perm=[2,0,3,1,4]
    Gather | i 0 | q | axis=0
    Gather | i 1 | k | axis=0
    Gather | i 2 | v | axis=0
    Transpose | k | k1 | perm=[0,1,3,2]
    MatMul | q k1 | j
    Div | j 2 | scores
    Softmax | scores | shares | axis=-1
    MatMul | shares v | l
    Transpose | l | m | perm=[0,2,1,3]
    Reshape | m [4,6,8] | n
    Add | tokens n | o
    Reshape | o [1,4,6,8] | p
    Transpose | p | r | perm=[0,3,2,1]
    Reshape | r [16,3,2,2] | s
    Transpose | s | t | perm=[0,2,1,3]
    Reshape | t [1,8,4,6] | u
    Flatten | u | w
    Gemm | w flat | y | transB=1";

const PARTS: &str = "
    Conv | x point | a
    Relu | a | b
    Conv | b cheap | c | group=5 pads=[1,1,1,1]
    Concat | b c | d | axis=1
    Conv | d strided | e | group=10 pads=[1,1,1,1] strides=[2,2]
    Conv | e reduce | f
    Relu | f | g
    Transpose | g | h | perm=[0,2,3,1]
    Reshape | h [1,-1] | i
    MatMul | i last | j
    Slice | d [3] [9] [1] | k
    ReduceMean | k [2,3] | l | keepdims=0
    ReduceMax | d [2,3] | m | keepdims=0
    Concat | j l m | y | axis=1";

fn count(model: &Model, is: fn(&Step) -> bool) -> usize {
    model.plan().steps.iter().filter(|step| is(step)).count()
}

#[test]
fn a_small_vit() {
    let model = check(
        &format!("{EMBEDDED}{TOKENS}"),
        &[0.804415, -0.0549648, -0.3916633, -0.2008262, -0.1109939],
    );
    assert_eq!(count(&model, |step| matches!(step, Step::Attention(_))), 1);
    assert_eq!(count(&model, |step| matches!(step, Step::Affine(_) | Step::Softmax(_))), 0);
}

#[test]
fn attention_within_patches_then_flatten() {
    let model = check(PATCHES, &[-2.212716, 0.4377432, 1.5436845, -2.103323, 0.9409885]);
    assert!(model.plan().steps.iter().any(|step| match step {
        Step::Attention(attention) => attention.groups == [2, 2] && attention.heads == 2,
        _ => false,
    }));
}

#[test]
fn concatenations_move_behind_their_readers() {
    let expected = [
        -0.0951046, 0.0142313, -0.0811125, -0.1178107, 0.0687185, 0.0572517, 0.0515483, -0.0260567,
        -0.0644452, 0.0055099, 0.0248653, 0.57456, 0.54016, 0.64128, 0.33376, 0.18016, 0.2903981,
        0.1560512, 0.2630387, 0.1437837, 0.0417741,
    ];
    check(PARTS, &expected);
    let one_reader: Vec<&str> = PARTS.lines().filter(|line| !line.contains("Reduce")).collect();
    let one_reader = one_reader.join("\n").replace("    Slice | d [3] [9] [1] | k", "");
    let model = check(
        &one_reader.replace("Concat | j l m | y | axis=1", "Identity | j | y"),
        &expected[..5],
    );
    assert_eq!(count(&model, |step| matches!(step, Step::Affine(_))), 0);
}

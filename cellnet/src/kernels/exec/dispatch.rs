//! Selects the kernel for a stage of the plan and the detected instruction set.
//!
//! Each kernel is compiled as one function per instruction set.

use crate::kernels::arch::isa::{Isa, Set};
use crate::kernels::arch::portable;
#[cfg(target_arch = "x86_64")]
use crate::kernels::arch::x86;
use crate::kernels::memory::{Memory, Task, clear_halo};
use crate::kernels::ops::pair::{self, Pair};
use crate::kernels::ops::{
    attention, conv, depthwise, elementwise, pool, product, quantize, tokens, winograd,
};
use crate::plan::{Algorithm, Conv, Depthwise, Map, Plan, Step};
use crate::stage::Stage;

/// The work of one stage.
#[derive(Clone, Copy)]
pub(in crate::kernels) enum Work<'a> {
    Step(&'a Step),
    Pair(Pair<'a>),
}

impl<'a> Work<'a> {
    /// The work of a stage; `None` if the stage is not one of this plan.
    pub(in crate::kernels) fn of(plan: &'a Plan, stage: Stage) -> Option<Self> {
        match (stage.slice, plan.steps.get(stage.step..)?) {
            (Some(slice), [Step::Conv(conv), Step::Depthwise(depthwise), ..]) => {
                Some(Self::Pair(Pair { conv, depthwise, slice }))
            }
            (None, [step, ..]) => Some(Self::Step(step)),
            _ => None,
        }
    }

    /// The maps whose halos must be cleared.
    pub(in crate::kernels) fn outputs(self) -> impl Iterator<Item = u32> {
        let (first, second) = match self {
            Self::Step(step) => (step.output(), step.second_output()),
            Self::Pair(pair) => (pair.depthwise.output, None),
        };
        std::iter::once(first).chain(second)
    }
}

/// Number of tasks for this many threads.
pub(in crate::kernels) fn tasks(work: Work, maps: &[Map], threads: usize) -> usize {
    let step = match work {
        Work::Step(step) => step,
        Work::Pair(pair) => return pair::tasks(&pair, maps),
    };
    match step {
        Step::Conv(s) if s.algorithm == Algorithm::Direct => conv::tasks(s, maps, threads),
        Step::Conv(s) => winograd::tasks(s, maps),
        Step::Depthwise(s) => depthwise::tasks(s, maps, threads),
        Step::Pool(s) => pool::tasks(s, maps, threads),
        Step::Reduce(s) => pool::reduce_tasks(s, maps),
        Step::Affine(s) => elementwise::tasks(s.output, maps, threads),
        Step::Binary(s) => elementwise::tasks(s.output, maps, threads),
        Step::Softmax(_) => 1,
        Step::Product(s) => product::tasks(s, maps, threads),
        Step::Quantize(s) => elementwise::tasks(s.input, maps, threads),
        Step::Norm(s) => elementwise::tasks(s.output, maps, threads),
        Step::Attention(s) => attention::tasks(s, maps, threads),
        Step::Slice(s) => elementwise::tasks(s.output, maps, threads),
        Step::Prepend(_) => 1,
        Step::Shuffle(s) => elementwise::tasks(s.output, maps, threads),
        Step::DynamicQuantize(_) => 1,
    }
}

/// Floats of scratch needed per thread.
pub(in crate::kernels) fn scratch(work: Work, maps: &[Map]) -> usize {
    match work {
        Work::Step(Step::Conv(s)) if s.algorithm != Algorithm::Direct => winograd::scratch(s, maps),
        Work::Step(Step::Conv(s)) => conv::scratch(s, maps),
        Work::Step(Step::Attention(s)) => attention::scratch(s, maps),
        Work::Step(_) => 0,
        Work::Pair(pair) => pair::scratch(&pair, maps) + conv::scratch(pair.conv, maps),
    }
}

/// Defines one function per instruction set around a kernel, so that profiles show their names.
macro_rules! entry {
    ($pick:ident: $avx512:ident $avx2:ident $portable:ident, $step:ty,
     |$m:ident, $s:ident, $t:ident| $kernel:path $([$($k:literal)*])?, ($($arg:expr),*)) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
        unsafe fn $avx512($m: &Memory, $s: &$step, $t: Task) {
            use $kernel as kernel;
            kernel::<x86::Avx512 $($(, $k)*)?>($($arg),*);
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $avx2($m: &Memory, $s: &$step, $t: Task) {
            use $kernel as kernel;
            kernel::<x86::Avx2 $($(, $k)*)?>($($arg),*);
        }
        unsafe fn $portable($m: &Memory, $s: &$step, $t: Task) {
            use $kernel as kernel;
            kernel::<portable::Portable $($(, $k)*)?>($($arg),*);
        }
        #[inline]
        unsafe fn $pick(isa: Isa, m: &Memory, s: &$step, t: Task) {
            match isa.set() {
                #[cfg(target_arch = "x86_64")]
                Set::Avx512Vnni | Set::Avx512 => $avx512(m, s, t),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => $avx2(m, s, t),
                Set::Portable => $portable(m, s, t),
            }
        }
    };
}

entry!(conv_task: conv_avx512 conv_avx2 conv_portable, Conv,
    |m, s, t| conv::task, (m, s, t));
entry!(winograd_task: winograd_avx512 winograd_avx2 winograd_portable, Conv,
    |m, s, t| winograd::task, (m, s, t.index, t.scratch));
entry!(depthwise3_task: depthwise3_avx512 depthwise3_avx2 depthwise3_portable, Depthwise,
    |m, s, t| depthwise::task [3 1], (m, s, t));
entry!(depthwise3_by_2_task: depthwise3_by_2_avx512 depthwise3_by_2_avx2 depthwise3_by_2_portable, Depthwise,
    |m, s, t| depthwise::task [3 2], (m, s, t));
entry!(depthwise5_task: depthwise5_avx512 depthwise5_avx2 depthwise5_portable, Depthwise,
    |m, s, t| depthwise::task [5 1], (m, s, t));
entry!(depthwise5_by_2_task: depthwise5_by_2_avx512 depthwise5_by_2_avx2 depthwise5_by_2_portable, Depthwise,
    |m, s, t| depthwise::task [5 2], (m, s, t));
entry!(depthwise_any_task: depthwise_any_avx512 depthwise_any_avx2 depthwise_any_portable, Depthwise,
    |m, s, t| depthwise::task [0 0], (m, s, t));
entry!(pool_task: pool_avx512 pool_avx2 pool_portable, crate::plan::Pool,
    |m, s, t| pool::task, (m, s, t.index, t.threads));
entry!(reduce_task: reduce_avx512 reduce_avx2 reduce_portable, crate::plan::Reduce,
    |m, s, t| pool::reduce_task, (m, s, t.index));
entry!(affine_task: affine_avx512 affine_avx2 affine_portable, crate::plan::Affine,
    |m, s, t| elementwise::affine_task, (m, s, t.index, t.threads));
entry!(product_task: product_avx512 product_avx2 product_portable, crate::plan::Product,
    |m, s, t| product::task, (m, s, t.index, t.threads));
entry!(quantize_task: quantize_avx512 quantize_avx2 quantize_portable, crate::plan::Quantize,
    |m, s, t| quantize::task, (m, s, t.index, t.threads));
entry!(norm_task: norm_avx512 norm_avx2 norm_portable, crate::plan::Norm,
    |m, s, t| tokens::norm_task, (m, s, t.index, t.threads));
entry!(attention_task: attention_avx512 attention_avx2 attention_portable, crate::plan::Attention,
    |m, s, t| attention::task, (m, s, t));
entry!(binary_task: binary_avx512 binary_avx2 binary_portable, crate::plan::Binary,
    |m, s, t| elementwise::binary_task, (m, s, t.index, t.threads));

/// A direct convolution, of floats or of bytes.
unsafe fn direct_task(isa: Isa, memory: &Memory, step: &Conv, task: Task) {
    let isa = if step.sums.is_some() { isa.for_bytes() } else { isa };
    conv_task(isa, memory, step, task);
}

/// A depthwise convolution: a function for each frequent window, because the compiler takes several times as
/// long for one that holds them all.
unsafe fn depthwise_task(isa: Isa, memory: &Memory, step: &Depthwise, task: Task) {
    match depthwise::compiled_for(step, memory.maps) {
        (3, 1) => depthwise3_task(isa, memory, step, task),
        (3, 2) => depthwise3_by_2_task(isa, memory, step, task),
        (5, 1) => depthwise5_task(isa, memory, step, task),
        (5, 2) => depthwise5_by_2_task(isa, memory, step, task),
        _ => depthwise_any_task(isa, memory, step, task),
    }
}

/// Runs one task.
///
/// # Safety
/// The contract of `kernels`.
pub(in crate::kernels) unsafe fn run(isa: Isa, memory: &Memory, work: Work, task: Task) {
    let step = match work {
        Work::Step(step) => step,
        Work::Pair(pair) => {
            let slice = pair::slice(memory, &pair, task);
            clear_halo(memory.arena, &slice.map);
            // The slice comes first in the scratch; the convolution has the rest.
            let scratch = task.scratch.add(pair::scratch(&pair, memory.maps));
            let task = Task { slice: Some(&slice), scratch, ..task };
            direct_task(isa, memory, pair.conv, task);
            return depthwise_task(isa, memory, pair.depthwise, task);
        }
    };
    match step {
        Step::Conv(s) if s.algorithm == Algorithm::Direct => direct_task(isa, memory, s, task),
        Step::Conv(s) => winograd_task(isa, memory, s, task),
        Step::Depthwise(s) => depthwise_task(isa, memory, s, task),
        Step::Pool(s) => pool_task(isa, memory, s, task),
        Step::Reduce(s) => reduce_task(isa, memory, s, task),
        Step::Affine(s) => affine_task(isa, memory, s, task),
        Step::Binary(s) => binary_task(isa, memory, s, task),
        Step::Softmax(s) => pool::softmax(memory, s),
        Step::Product(s) => product_task(isa, memory, s, task),
        Step::Quantize(s) => quantize_task(isa, memory, s, task),
        Step::Norm(s) => norm_task(isa, memory, s, task),
        Step::Attention(s) => attention_task(isa, memory, s, task),
        Step::Slice(s) => tokens::slice_task(memory, s, task.index, task.threads),
        Step::Prepend(s) => tokens::prepend(memory, s),
        Step::Shuffle(s) => tokens::shuffle_task(memory, s, task.index, task.threads),
        Step::DynamicQuantize(s) => quantize::dynamic(memory, s),
    }
}

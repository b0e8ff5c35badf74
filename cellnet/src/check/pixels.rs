//! Checks of the steps in `plan/pixels.rs`.

use super::{Check, Checker, MAX_CHANNELS, ensure};
use crate::plan::{
    Attention, CHANNEL_BLOCK, DynamicQuantize, Norm, Prepend, Product, Quantize, Shuffle, Slice,
    Softmax,
};

impl Checker<'_> {
    pub(super) fn quantize(&self, s: &Quantize) -> Check {
        let (input, output) = (self.blocked(s.input)?, self.map(s.output)?);
        let fits = (input.height, input.width) == (output.height, output.width)
            && input.channels.div_ceil(4) == output.channels;
        // The kernel writes the bytes of whole blocks of channels, two floats each.
        let bytes = output.zero.is_some() && output.stride.is_multiple_of(CHANNEL_BLOCK / 4);
        ensure(fits && bytes, || format!("{input:?} rounded to {output:?}"))?;
        ensure(s.scale.is_normal() && s.scale > 0.0, || format!("a scale of {}", s.scale))
    }

    pub(super) fn softmax(&self, s: &Softmax) -> Check {
        let (input, output) = (self.blocked(s.input)?, self.blocked(s.output)?);
        self.same_shape(input, output)
    }

    pub(super) fn dynamic_quantize(&self, s: &DynamicQuantize) -> Check {
        self.same_shape(self.floats(s.input)?, self.floats(s.output)?)
    }

    pub(super) fn product(&self, s: &Product) -> Check {
        let (a, b, output) = (self.blocked(s.a)?, self.blocked(s.b)?, self.blocked(s.output)?);
        let rows = u64::from(a.height) * u64::from(a.width);
        let fits = a.channels == b.channels
            && rows == u64::from(output.channels)
            && (b.height, b.width) == (output.height, output.width);
        ensure(fits, || format!("{a:?} times {b:?} into {output:?}"))
    }

    pub(super) fn norm(&self, s: &Norm) -> Check {
        let (input, output) = (self.blocked(s.input)?, self.blocked(s.output)?);
        self.same_shape(input, output)?;
        ensure(s.epsilon > 0.0, || format!("an epsilon of {}", s.epsilon))?;
        self.blob(s.scale, u64::from(output.stride))?;
        self.blob(s.bias, u64::from(output.stride))
    }

    pub(super) fn attention(&self, s: &Attention) -> Check {
        let output = self.blocked(s.output)?;
        let limits = [s.heads, s.head, s.value_head];
        ensure(limits.iter().all(|n| (1..=MAX_CHANNELS).contains(n)), || format!("{limits:?}"))?;
        let of = |head: u32| u64::from(s.heads) * u64::from(head);
        let fits = of(s.value_head) == u64::from(output.channels);
        ensure(fits, || format!("{limits:?} of {output:?}"))?;
        let (query, key) = (self.floats(s.query)?, self.floats(s.key)?);
        self.same_sides(query, output)?;
        let value = self.floats(s.value)?;
        self.same_sides(key, value)?;
        if s.groups != [1, 1] || s.shift != [0, 0] {
            self.same_sides(query, key)?;
        }
        let sides = [query.height, query.width];
        for ((side, groups), shift) in sides.into_iter().zip(s.groups).zip(s.shift) {
            let divides = groups > 0 && side.is_multiple_of(groups) && shift < side;
            ensure(divides, || format!("{:?} groups, moved by {:?}", s.groups, s.shift))?;
        }
        let parts = [(query, of(s.head)), (key, of(s.head)), (value, of(s.value_head))];
        for ((map, channels), first) in parts.into_iter().zip(s.first) {
            ensure(u64::from(first) + channels <= u64::from(map.channels), || {
                format!("{channels} channels from {first} of {map:?}")
            })?;
        }
        let queries = s.group(query.height, query.width) as u64;
        let keys = s.group(key.height, key.width) as u64;
        let scores = queries.saturating_mul(keys.next_multiple_of(u64::from(CHANNEL_BLOCK)));
        let groups = u64::from(s.groups[0]) * u64::from(s.groups[1]);
        for (summands, count) in [(s.bias, u64::from(s.heads)), (s.mask, groups)] {
            if let Some(summands) = summands {
                self.blob(summands, scores.saturating_mul(count))?;
            }
        }
        Ok(())
    }

    pub(super) fn slice(&self, s: &Slice) -> Check {
        let (input, output) = (self.floats(s.input)?, self.floats(s.output)?);
        self.same_sides(input, output)?;
        let last = u64::from(s.first) + u64::from(output.channels);
        ensure(last <= u64::from(input.channels), || {
            format!("{output:?} from channel {} of {input:?}", s.first)
        })
    }

    pub(super) fn shuffle(&self, s: &Shuffle) -> Check {
        let slice = Slice { input: s.input, output: s.output, first: s.first };
        self.slice(&slice)?;
        let channels = self.floats(s.input)?.channels;
        ensure(s.groups > 0 && channels.is_multiple_of(s.groups), || {
            format!("{} groups of {channels} channels", s.groups)
        })
    }

    pub(super) fn prepend(&self, s: &Prepend) -> Check {
        let (input, output) = (self.floats(s.input)?, self.floats(s.output)?);
        let pixels = u64::from(input.height) * u64::from(input.width);
        let more = u64::from(output.width).saturating_sub(pixels);
        let fits = output.height == 1 && more > 0 && input.channels == output.channels;
        ensure(fits, || format!("{input:?} after pixels of {output:?}"))?;
        self.blob(s.head, more * u64::from(output.stride))
    }
}

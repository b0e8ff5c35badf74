//! Forward derivatives of average and max pooling over windows, and of borders.

use rten_onnx::onnx::NodeProto;

use super::axes::padding;
use super::closed::{Diagonal, name};
use super::general::winners;
use super::sheet::{Sheet, Val};
use super::tangent::{Step, Tangent};
use crate::onnx::graph::{int, ints, output, text};
use skincell_onnx::Constant;

impl Step<'_> {
    /// Pools the factors like the values. Constant factors stay as they are, unless the pooling counts its
    /// padding or rounds its size up; then a map of ones is pooled.
    pub(super) fn average_pool(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        let tangent = self.tangent(x)?.clone();
        let padded = ints(node, "pads").is_some_and(|p| p.iter().any(|p| *p != 0))
            && int(node, "count_include_pad", 0) == 1;
        let constant = !matches!(tangent.factor, Diagonal::Value(_));
        if constant && !padded && int(node, "ceil_mode", 0) == 0 {
            return Some(tangent);
        }
        if tangent.axis != 1 {
            return None;
        }
        let value = self.each_place(x)?.name;
        let mean =
            self.graph.emit(&name("derivative"), "AveragePool", &[&value], node.attribute.clone());
        Some(Tangent { factor: Diagonal::Value(mean), ..tangent })
    }

    /// The factor of x as a tensor with an element for each place of the target's channels.
    fn each_place(&mut self, x: &str) -> Option<Val> {
        let tangent = self.tangent(x)?.clone();
        let mut shape = self.shape(x)?.clone();
        *shape.get_mut(tangent.axis)? = self.channels;
        let value = match &tangent.factor {
            Diagonal::Value(value) => value.clone(),
            other => {
                let ones = Constant::f32(&shape, &vec![1.0; shape.iter().product()]);
                let ones = self.graph.add_constant(&name("ones"), ones);
                match other.held(self.graph, shape.len(), tangent.axis) {
                    Some(factor) => {
                        self.graph.emit(&name("derivative"), "Mul", &[&ones, &factor], vec![])
                    }
                    None => ones,
                }
            }
        };
        Some(Val::new(&value, &shape))
    }

    /// A constant border around the places: its factors are 0.
    pub(super) fn pad(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        let tangent = self.tangent(x)?.clone();
        let pads = padding(self.graph, node, self.shape(x)?.len()).ok()?;
        if pads.get(tangent.axis) != Some(&(0, 0)) {
            return None;
        }
        let mut map = self.each_place(x)?;
        for (axis, (before, after)) in pads.into_iter().enumerate() {
            let length = before + map.side(axis) + after;
            map = self.bordered(&map, &[(axis, before, length)], 0.0);
        }
        Some(Tangent { factor: Diagonal::Value(map.name), ..tangent })
    }

    /// For each window the factor at its maximum, or the mean of the factors if several places are maximal.
    pub(super) fn max_pool(&mut self, node: &NodeProto, x: &str) -> Option<Tangent> {
        let tangent = self.tangent(x)?.clone();
        let Diagonal::Value(value) = &tangent.factor else { return Some(tangent) };
        let dilated = ints(node, "dilations").is_some_and(|d| d.iter().any(|d| *d != 1));
        if tangent.axis != 1 || self.shape(x)?.len() != 4 || dilated {
            return None;
        }
        let pair = |list: Option<&[i64]>, at: usize, default: i64| {
            let value = list.and_then(|l| l.get(at)).copied().unwrap_or(default);
            usize::try_from(value).ok()
        };
        let kernel = [0, 1].map(|i| pair(ints(node, "kernel_shape"), i, 1));
        let stride = [0, 1].map(|i| pair(ints(node, "strides"), i, 1));
        let pads = [0, 1].map(|i| pair(ints(node, "pads"), i, 0));
        if !matches!(text(node, "auto_pad"), None | Some("" | "NOTSET" | "VALID")) {
            return None;
        }
        let ([Some(kh), Some(kw)], [Some(sy), Some(sx)], [Some(top), Some(left)]) =
            (kernel, stride, pads)
        else {
            return None;
        };
        let most = self.whole(output(node))?;
        let most = self.cut(&most, &tangent)?;
        let part = self.target_part(x)?;
        let (rows, columns) = (most.side(2), most.side(3));
        let need = [(rows - 1) * sy + kh, (columns - 1) * sx + kw];
        let border = [(2, top, need[0]), (3, left, need[1])];
        let values = self.bordered(&part, &border, f32::MIN);
        let factors = self.bordered(&Val::new(value, &part.dims), &border, 0.0);
        let sheet = &mut Sheet { graph: self.graph };
        let mut sums: Option<(Val, Val)> = None;
        for (dy, dx) in (0..kh).flat_map(|dy| (0..kw).map(move |dx| (dy, dx))) {
            let mut look = |map: &Val| {
                let rows = sheet.slice(map, 2, (dy, sy, rows));
                sheet.slice(&rows, 3, (dx, sx, columns))
            };
            let (seen, factor) = (look(&values), look(&factors));
            let at = winners(sheet, &seen, &most).ok()?;
            let there = sheet.binary("Mul", &at, &factor).ok()?;
            sums = Some(match sums {
                None => (at, there),
                Some((count, sum)) => (
                    sheet.binary("Add", &count, &at).ok()?,
                    sheet.binary("Add", &sum, &there).ok()?,
                ),
            });
        }
        let (count, sum) = sums?;
        let share = sheet.binary("Div", &sum, &count).ok()?;
        Some(Tangent { factor: Diagonal::Value(share.name), ..tangent })
    }

    /// The map with elements of the value `fill` around it. `border` holds axes, and for each the number to
    /// add before the map, and the length to reach by adding after it.
    fn bordered(&mut self, map: &Val, border: &[(usize, usize, usize)], fill: f32) -> Val {
        let sheet = &mut Sheet { graph: self.graph };
        let mut map = map.clone();
        for (axis, before, length) in border.iter().copied() {
            let after = length.saturating_sub(before + map.side(axis));
            let strip = |sheet: &mut Sheet, count: usize| {
                let mut dims = map.dims.clone();
                dims[axis] = count;
                let values = vec![fill; dims.iter().product()];
                (count > 0).then(|| sheet.constant(Constant::f32(&dims, &values)))
            };
            let mut parts = Vec::new();
            parts.extend(strip(sheet, before));
            parts.push(map.clone());
            parts.extend(strip(sheet, after));
            map = sheet.concat(&parts, axis);
        }
        map
    }
}

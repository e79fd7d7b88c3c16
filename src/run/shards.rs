//! The shards of a step and the tree in which their gradients are added: the same one, whoever computes them.
//!
//! Floating point sums depend on their order. Here shard 2i is added to shard 2i + 1, these sums two by two again, and so on; a sum
//! without a neighbour goes up as it is. Whoever holds a run of shards adds the subtrees that lie in it, and the roots of these are
//! added as the tree says.

use std::ops::Range;

/// The shards of a step, of which some are one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    all: u32,
    own: Range<u32>,
}

/// What becomes of the gradient of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The levels whose waiting sums are added to it, one after the other.
    pub takes: Vec<u32>,
    pub goes: Goes,
}

/// Where a sum goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// It waits for its neighbour at this level.
    Waits(u32),
    /// No more of one's own belongs to it: the root of a subtree.
    Out(Node),
}

/// A sum of neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// It would have 2^level shards, if there were as many.
    level: u32,
    first: u32,
}

impl Shards {
    /// All of a step's, of which rank `rank` of `ranks` computes its part.
    pub fn of(all: u32, rank: u32, ranks: u32) -> Shards {
        let place = |rank: u32| (u64::from(rank) * u64::from(all) / u64::from(ranks)) as u32;
        Shards { all, own: place(rank)..place(rank + 1) }
    }

    /// How many there are.
    pub fn all(&self) -> u32 {
        self.all
    }

    /// One's own.
    pub fn own(&self) -> Range<u32> {
        self.own.clone()
    }

    /// Levels at which sums may wait.
    pub fn levels(all: u32) -> u32 {
        u32::BITS - (all - 1).leading_zeros()
    }

    /// What becomes of shard `shard`, one of one's own, which come in their order.
    pub fn addition(&self, shard: u32) -> Addition {
        let mut takes = Vec::new();
        for level in 0.. {
            let first = shard >> level << level;
            let out = Addition { takes: takes.clone(), goes: Goes::Out(Node { level, first }) };
            if first == 0 && shard + 1 == self.all {
                return out;
            }
            if shard >> level & 1 == 1 {
                let neighbour = first - (1 << level);
                if neighbour < self.own.start {
                    return out;
                }
                takes.push(level);
            } else if shard + 1 < self.all {
                let end = (u64::from(first) + (2 << level)).min(self.all.into());
                let goes = if end <= self.own.end.into() { Goes::Waits(level) } else { out.goes };
                return Addition { takes, goes };
            }
        }
        unreachable!("a tree has a root")
    }

    /// The roots of one's own subtrees, from left to right.
    pub fn roots(&self) -> Vec<Node> {
        let root = |shard| match self.addition(shard).goes {
            Goes::Out(node) => Some(node),
            Goes::Waits(_) => None,
        };
        self.own().filter_map(root).collect()
    }
}

/// How `nodes`, those of all ranks from left to right, are added to the sum of `all` shards: the second of each pair to the first, in
/// this order. The sum is the first of all.
pub fn additions(all: u32, nodes: &[Node]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    add_below(Node { level: Shards::levels(all), first: 0 }, all, nodes, &mut pairs);
    pairs
}

/// Adds what lies below `node`; the place of its sum.
fn add_below(node: Node, all: u32, nodes: &[Node], pairs: &mut Vec<(usize, usize)>) -> usize {
    let end = |node: Node| (u64::from(node.first) + (1 << node.level)).min(all.into());
    let is_it = |other: &Node| other.first == node.first && end(*other) == end(node);
    if let Some(place) = nodes.iter().position(is_it) {
        return place;
    }
    let level = node.level - 1;
    let left = add_below(Node { level, ..node }, all, nodes, pairs);
    let first = node.first + (1 << level);
    if first < all {
        let right = add_below(Node { level, first }, all, nodes, pairs);
        pairs.push((left, right));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of all shards' letters as it is bracketed, by so many ranks.
    fn bracketed(all: u32, ranks: u32) -> String {
        let mut roots = Vec::new();
        let mut sums = Vec::new();
        for rank in 0..ranks {
            let shards = Shards::of(all, rank, ranks);
            let mut waiting = vec![None; Shards::levels(all) as usize];
            for shard in shards.own() {
                let mut sum = shard.to_string();
                let Addition { takes, goes } = shards.addition(shard);
                for level in takes {
                    let before: Option<String> = waiting[level as usize].take();
                    sum = format!("({}+{sum})", before.expect("its neighbour waits"));
                }
                match goes {
                    Goes::Waits(level) => assert!(waiting[level as usize].replace(sum).is_none(), "two wait"),
                    Goes::Out(node) => {
                        roots.push(node);
                        sums.push(sum);
                    }
                }
            }
            assert!(waiting.iter().all(Option::is_none), "{all} on {ranks}: one waits for ever");
            assert_eq!(shards.roots().len(), shards.roots().iter().filter(|node| roots.contains(node)).count());
        }
        for (to, from) in additions(all, &roots) {
            sums[to] = format!("({}+{})", sums[to], sums[from]);
        }
        sums.swap_remove(0)
    }

    #[test]
    fn the_tree_is_one_whoever_adds() {
        assert_eq!(bracketed(1, 1), "0");
        assert_eq!(bracketed(4, 1), "((0+1)+(2+3))");
        assert_eq!(bracketed(5, 1), "(((0+1)+(2+3))+4)");
        assert_eq!(bracketed(7, 1), "(((0+1)+(2+3))+((4+5)+6))");
        for all in 1..40 {
            for ranks in 1..=all {
                assert_eq!(bracketed(all, ranks), bracketed(all, 1), "{all} shards on {ranks} ranks");
            }
        }
    }

    #[test]
    fn ranks_share_all_shards_evenly() {
        for all in 1..20u32 {
            for ranks in 1..=all {
                let counts: Vec<usize> = (0..ranks).map(|rank| Shards::of(all, rank, ranks).own().len()).collect();
                assert_eq!(counts.iter().sum::<usize>(), all as usize);
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            }
        }
    }
}

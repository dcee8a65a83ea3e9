//! Path prefixes as a tree of segments: one walk down the path finds every prefix of it.

use rustc_hash::FxHashMap;

use super::bucket::Bucket;

/// Buckets by path prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct PrefixTree {
    /// The first stands for `/`, when there is any.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: FxHashMap<Box<str>, usize>,
    bucket: Option<Bucket>,
    /// The next shorter prefix that has a bucket.
    shorter: Option<usize>,
}

impl PrefixTree {
    /// `prefixes` begin with a slash and do not end with one; `/` itself is empty.
    pub(super) fn new(prefixes: impl IntoIterator<Item = (Box<str>, Bucket)>) -> Self {
        let mut tree = Self {
            nodes: vec![Node::default()],
        };
        for (prefix, bucket) in prefixes {
            let mut at = 0;
            for segment in prefix.split('/').skip(1) {
                let fresh = tree.nodes.len();
                at = *tree.nodes[at]
                    .children
                    .entry(segment.into())
                    .or_insert(fresh);
                if at == fresh {
                    tree.nodes.push(Node::default());
                }
            }
            tree.nodes[at].bucket = Some(bucket);
        }
        tree.link();
        tree
    }

    /// All prefixes, written as [`Self::new`] takes them, and their buckets.
    pub(super) fn all(&self) -> Vec<(String, &Bucket)> {
        let mut all = Vec::new();
        let mut open: Vec<(String, &Node)> = Vec::new();
        open.extend(self.nodes.first().map(|root| (String::new(), root)));
        while let Some((prefix, node)) = open.pop() {
            for (segment, child) in &node.children {
                let child = self.nodes.get(*child);
                open.extend(child.map(|child| (format!("{prefix}/{segment}"), child)));
            }
            all.extend(node.bucket.as_ref().map(|bucket| (prefix, bucket)));
        }
        all
    }

    /// The buckets of a path's prefixes, the longest first.
    pub(super) fn matching(&self, path: &str) -> impl Iterator<Item = &Bucket> {
        let mut longest = None;
        let mut node = path.starts_with('/').then(|| self.nodes.first()).flatten();
        let mut segments = path.split('/').skip(1);
        while let Some(here) = node {
            if here.bucket.is_some() {
                longest = Some(here);
            }
            if here.children.is_empty() {
                break;
            }
            node = segments
                .next()
                .and_then(|segment| here.children.get(segment))
                .and_then(|child| self.nodes.get(*child));
        }
        let shorter = |node: &&Node| node.shorter.and_then(|at| self.nodes.get(at));
        std::iter::successors(longest, shorter).filter_map(|node| node.bucket.as_ref())
    }

    /// Fills in `shorter`. Parents are made before their children, so one pass in order does.
    fn link(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let below = match node.bucket {
                Some(_) => Some(at),
                None => node.shorter,
            };
            let children: Vec<usize> = node.children.values().copied().collect();
            for child in children {
                self.nodes[child].shorter = below;
            }
        }
    }
}

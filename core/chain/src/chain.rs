//! A [`Chain`]: the filters of one target in order, bound once per core, and the start of an exchange
//! with them.

use std::rc::Rc;

use crate::context::RequestContext;
use crate::filter::{Begin, LocalReply, Needs, Phase, Placed, StreamFilter};
use crate::runner::ChainRun;

/// Bytes one filter may have held in one direction: 1 MiB, Envoy's default buffer limit.
pub const DEFAULT_BUFFER_LIMIT: usize = 1 << 20;

/// The filters of one target, in the order in which requests meet them.
pub struct Chain {
    filters: Box<[Placed]>,
    needs: Needs,
    buffer_limit: usize,
}

impl Chain {
    /// Orders filters by phase, then by priority (higher first), then as they were given.
    #[must_use]
    pub fn new(mut filters: Vec<Placed>) -> Self {
        filters.sort_by(|a, b| (a.phase, b.priority).cmp(&(b.phase, a.priority)));
        let needs = filters
            .iter()
            .fold(Needs::default(), |all, one| all.union(one.filter.needs()));
        Self {
            filters: filters.into_boxed_slice(),
            needs,
            buffer_limit: DEFAULT_BUFFER_LIMIT,
        }
    }

    /// Sets how many bytes one filter may have held in one direction.
    #[must_use]
    pub fn with_buffer_limit(mut self, bytes: usize) -> Self {
        self.buffer_limit = bytes;
        self
    }

    /// How many bytes one filter may have held in one direction.
    #[must_use]
    pub fn buffer_limit(&self) -> usize {
        self.buffer_limit
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// What the filters together may have to see. What the streams of one exchange really need is
    /// told by [`ChainRun::needs`].
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// The filters in order, for `explain` and dumps.
    #[must_use]
    pub fn filters(&self) -> &[Placed] {
        &self.filters
    }

    /// Meets a request. Filters are asked in order until one opens a stream; with none that does, the
    /// exchange costs no allocation here and the chain is done with it.
    pub fn begin(self: &Rc<Self>, context: &mut RequestContext) -> Started {
        let mut next = 0;
        match self.begin_from(&mut next, context) {
            Begun::All => Started::Passed {
                rewritten: context.take_rewritten(),
            },
            Begun::Reply(reply) => Started::Reply(reply),
            Begun::Stream(first) => Started::Running(Opened {
                chain: Rc::clone(self),
                next,
                first,
            }),
        }
    }

    /// Judges the request again, after it was rewritten and made canonical again: the reply, if it may
    /// not pass as it is now.
    pub fn judge_again(&self, context: &mut RequestContext) -> Option<LocalReply> {
        context.take_rewritten();
        let reply = self
            .filters
            .iter()
            .find_map(|placed| placed.filter.judge_again(context))?;
        context.details = Some(reply.details.clone());
        Some(reply)
    }

    /// Asks filters from `next` on until one stays or answers; `next` is then the one after it.
    pub(crate) fn begin_from(&self, next: &mut usize, context: &mut RequestContext) -> Begun {
        while let Some(placed) = self.filters.get(*next) {
            *next += 1;
            match placed.filter.begin(context) {
                Begin::Pass => {}
                Begin::Reply(reply) => {
                    context.details = Some(reply.details.clone());
                    return Begun::Reply(reply);
                }
                Begin::Stream(stream) => {
                    return Begun::Stream(Slot {
                        stream,
                        needs: placed.filter.needs(),
                    });
                }
            }
        }
        Begun::All
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self
            .filters
            .iter()
            .map(|placed| (placed.phase, placed.priority, placed.filter.name()));
        f.debug_list()
            .entries(entries.collect::<Vec<(Phase, i32, &str)>>())
            .finish()
    }
}

/// How an exchange starts.
#[derive(Debug)]
#[must_use]
pub enum Started {
    /// No filter stays: the head goes upstream, bodies are nobody's business.
    Passed {
        /// Whether a filter changed method, path or authority: make the request canonical again, then
        /// ask [`Chain::judge_again`].
        rewritten: bool,
    },
    /// Answered before any filter followed the exchange: send it, nothing else is to be told.
    Reply(LocalReply),
    /// A filter follows the exchange: give it the context with [`Opened::run`] and go on with
    /// [`ChainRun::poll_request`].
    Running(Opened),
}

/// A chain that waits for the context of the exchange it follows.
#[must_use = "the filter that opened a stream waits for the exchange"]
pub struct Opened {
    chain: Rc<Chain>,
    next: usize,
    first: Slot,
}

impl Opened {
    /// Goes on with the exchange. From here on the context belongs to the run.
    pub fn run(self, context: RequestContext) -> ChainRun {
        ChainRun::new(self.chain, self.next, self.first, context)
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("chain", &self.chain)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Where asking filters ended.
pub(crate) enum Begun {
    /// All were asked and let it pass.
    All,
    /// One answered.
    Reply(LocalReply),
    /// One stays.
    Stream(Slot),
}

/// A filter that follows the exchange.
pub(crate) struct Slot {
    pub(crate) stream: Box<dyn StreamFilter>,
    pub(crate) needs: Needs,
}

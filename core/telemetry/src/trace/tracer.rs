//! The tracer of one core: opens spans, closes them, and hands them over in batches.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use wayline_model::CanonicalRequest;
use wayline_model::mesh::TracingSettings;
use wayline_model::tracing::TracingProvider;

use super::context::{self, Incoming, SpanContext};
use super::export::Delivery;
use super::sampling::{self, RequestIdHint, Sampler};
use super::span::{OpenSpan, Origin, SpanEnd, SpanRecord};

/// Spans gathered before they are handed over.
const BATCH: usize = 64;

/// Traces requests of one core for one provider. Never waits.
#[derive(Debug)]
pub struct Tracer {
    provider: Arc<TracingProvider>,
    sampler: Sampler,
    delivery: Arc<Delivery>,
    batch: RefCell<Vec<SpanRecord>>,
}

impl Tracer {
    /// A tracer that hands its spans to `delivery`.
    #[must_use]
    pub fn new(settings: &TracingSettings, delivery: Arc<Delivery>) -> Self {
        Self {
            provider: Arc::clone(delivery.provider()),
            sampler: Sampler::new(None, None, settings.sampling_percent),
            delivery,
            batch: RefCell::default(),
        }
    }

    /// Whether it does what these settings ask for.
    #[must_use]
    pub fn follows(&self, settings: &TracingSettings) -> bool {
        settings.provider.as_ref() == Some(&self.provider)
            && Sampler::new(None, None, settings.sampling_percent) == self.sampler
    }

    /// Takes the request into a trace: its headers name our span from now on. The span itself comes
    /// back where it is recorded.
    ///
    /// `believe` says whether the request comes from within the mesh, so that what its id and its trace
    /// headers say of sampling counts.
    pub fn begin(
        &self,
        request: &mut CanonicalRequest,
        believe: bool,
        mut random: impl FnMut() -> u64,
    ) -> Option<Box<OpenSpan>> {
        let ours = self.provider.trace_headers;
        let incoming = Incoming::read(&request.headers, ours);
        let sampled = match incoming.sampled.filter(|_| believe) {
            Some(sampled) => sampled,
            None => {
                let hint = believe
                    .then(|| sampling::request_id_hint(&request.headers))
                    .flatten();
                match hint.unwrap_or_else(|| RequestIdHint::Number(random())) {
                    RequestIdHint::Recorded => true,
                    RequestIdHint::Number(number) => {
                        let records = self.sampler.records(number);
                        if records {
                            sampling::mark_request_id(&mut request.headers);
                        }
                        records
                    }
                }
            }
        };
        let short = self.provider.short_trace_ids;
        let context = SpanContext::new(&incoming, sampled, short, random);
        let trace_state = sampled
            .then(|| context::trace_state(&request.headers, &context))
            .flatten();
        context.write(&mut request.headers, ours);
        sampled.then(|| {
            Box::new(OpenSpan::new(
                request,
                context,
                trace_state,
                self.provider.max_path_length,
                SystemTime::now(),
            ))
        })
    }

    /// Closes a span. It is handed over with others, at the latest by [`Self::flush`].
    pub fn close(&self, span: OpenSpan, origin: &Arc<Origin>, end: &SpanEnd<'_>) {
        let mut batch = self.batch.borrow_mut();
        batch.push(SpanRecord::new(span, origin, end));
        if batch.len() >= BATCH {
            self.delivery.submit(std::mem::take(&mut batch));
        }
    }

    /// Hands over what was gathered; call it about once a second.
    pub fn flush(&self) {
        let batch = self.batch.take();
        if !batch.is_empty() {
            self.delivery.submit(batch);
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.flush();
    }
}

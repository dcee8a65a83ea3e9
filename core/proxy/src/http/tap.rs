//! A second reading of a request body while it goes by, which never holds up the first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::body::BodyError;

/// Bytes that may wait for a reader that is slower than the body; beyond that it gets no more.
const MAX_WAITING: usize = 1024 * 1024;

/// Makes a reader and what feeds it. `hint` is the length of the whole body.
pub(crate) fn tap(hint: SizeHint) -> (TapWriter, TapReader) {
    let state = Rc::new(RefCell::new(State::default()));
    let reader = TapReader {
        state: Rc::clone(&state),
        hint,
    };
    (TapWriter(state), reader)
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Piece>,
    bytes: usize,
    end: Option<End>,
    /// Nobody reads any more.
    unread: bool,
    reader: Option<Waker>,
    watch: Option<Waker>,
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum End {
    Complete,
    /// The body broke off, or its reader is too slow.
    Broken,
}

/// Feeds a reader. Dropped before [`TapWriter::end`], it lets the reader's body break off.
pub(crate) struct TapWriter(Rc<RefCell<State>>);

impl TapWriter {
    /// A piece of data went by.
    pub(crate) fn data(&self, data: &Bytes) {
        self.push(data.len(), || Piece::Data(data.clone()));
    }

    /// Trailers went by.
    pub(crate) fn trailers(&self, trailers: &HeaderMap) {
        self.push(0, || Piece::Trailers(trailers.clone()));
    }

    /// The body was complete.
    pub(crate) fn end(&self) {
        self.close(End::Complete);
    }

    fn push(&self, length: usize, piece: impl FnOnce() -> Piece) {
        let mut state = self.0.borrow_mut();
        if state.unread || state.end.is_some() {
            return;
        }
        if state.bytes + length > MAX_WAITING {
            drop(state);
            self.close(End::Broken);
            return;
        }
        state.bytes += length;
        state.waiting.push_back(piece());
        wake(&mut state);
    }

    fn close(&self, end: End) {
        let mut state = self.0.borrow_mut();
        if state.end.is_none() {
            state.end = Some(end);
            wake(&mut state);
        }
        if state.end == Some(End::Broken) {
            state.waiting.clear();
            if let Some(watch) = state.watch.take() {
                watch.wake();
            }
        }
    }
}

impl Drop for TapWriter {
    fn drop(&mut self) {
        self.close(End::Broken);
    }
}

fn wake(state: &mut State) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

/// Reads what went by.
pub(crate) struct TapReader {
    state: Rc<RefCell<State>>,
    hint: SizeHint,
}

impl TapReader {
    /// The next frame.
    pub(crate) fn poll_frame(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.state.borrow_mut();
        if let Some(piece) = state.waiting.pop_front() {
            return Poll::Ready(Some(Ok(match piece {
                Piece::Data(data) => {
                    state.bytes -= data.len();
                    Frame::data(data)
                }
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        match state.end {
            Some(End::Complete) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(BodyError::Tapped))),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether everything was read.
    pub(crate) fn is_end_stream(&self) -> bool {
        let state = self.state.borrow();
        state.waiting.is_empty() && state.end == Some(End::Complete)
    }

    /// Tells when the body broke off, even while nobody asks for more of it.
    pub(crate) fn watch(&self) -> TapWatch {
        TapWatch(Rc::clone(&self.state))
    }

    /// The length of the whole body.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl Drop for TapReader {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        state.unread = true;
        state.waiting.clear();
    }
}

/// Resolves when the body broke off.
pub(crate) struct TapWatch(Rc<RefCell<State>>);

impl Future for TapWatch {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        if state.end == Some(End::Broken) {
            return Poll::Ready(());
        }
        state.watch = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(reader: &TapReader) -> Poll<Option<Result<Bytes, ()>>> {
        let cx = Context::from_waker(Waker::noop());
        reader
            .poll_frame(&cx)
            .map(|frame| frame.map(|frame| frame.map(|it| it.into_data().unwrap()).map_err(drop)))
    }

    #[test]
    fn what_goes_by_is_read_in_order_to_its_end() {
        let (writer, reader) = tap(SizeHint::with_exact(2));
        assert_eq!(next(&reader), Poll::Pending);
        writer.data(&Bytes::from_static(b"a"));
        writer.data(&Bytes::from_static(b"b"));
        assert_eq!(next(&reader), Poll::Ready(Some(Ok("a".into()))));
        writer.end();
        drop(writer);
        assert_eq!(next(&reader), Poll::Ready(Some(Ok("b".into()))));
        assert_eq!(next(&reader), Poll::Ready(None));
        assert!(reader.is_end_stream());
    }

    #[test]
    fn a_body_that_breaks_off_breaks_off_here_too() {
        let (writer, reader) = tap(SizeHint::new());
        writer.data(&Bytes::from_static(b"a"));
        drop(writer);
        assert_eq!(next(&reader), Poll::Ready(Some(Err(()))));
        assert!(!reader.is_end_stream());
    }

    #[test]
    fn a_slow_reader_is_given_up_and_nothing_is_held_for_it() {
        let (writer, reader) = tap(SizeHint::new());
        let chunk = Bytes::from(vec![0; MAX_WAITING / 2]);
        for _ in 0..3 {
            writer.data(&chunk);
        }
        assert!(reader.state.borrow().waiting.is_empty());
        let mut watch = reader.watch();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut watch).poll(&mut cx).is_ready());
        writer.end();
        assert_eq!(next(&reader), Poll::Ready(Some(Err(()))));
    }
}

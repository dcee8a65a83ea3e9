//! The numbers an HBONE connection is run with.

use std::time::Duration;

use crate::frames::FrameLimits;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// The smallest and largest frame size HTTP/2 knows (RFC 9113 §6.5.2).
const FRAME_SIZES: (u32, u32) = (16 * KIB, 16 * MIB - 1);

/// The largest window HTTP/2 knows (RFC 9113 §6.9.1).
const LARGEST_WINDOW: u32 = i32::MAX as u32;

/// Tuning of both sides. The defaults are ztunnel's, whose tunnels these are; values that HTTP/2
/// cannot express are moved to the nearest it can.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes a peer may send on one stream before we have read them; 4 MiB.
    pub stream_window: u32,
    /// The same for the whole connection; 16 MiB, so that a few stalled streams leave room.
    pub connection_window: u32,
    /// The largest frame a peer may send, in bytes; 1 MiB.
    pub max_frame: u32,
    /// The largest header list a peer may send, decoded, in bytes; 64 KiB.
    pub max_header_list: u32,
    /// Streams a peer may have open on one connection to us; 200. Never set it below 100: ztunnel
    /// puts 100 streams on a connection before it learns our limit.
    pub max_streams: u32,
    /// What a peer may say to us without saying anything: 1,000 control frames in 10 s, 6,000 resets in a
    /// minute, because one connection carries whatever a pod gives up.
    pub frames: FrameLimits,
    /// Streams we put on one connection, if the peer allows as many; 100.
    pub max_client_streams: usize,
    /// Bytes a writer may have queued on one stream before it must wait; 64 KiB.
    pub send_buffer: usize,
    /// How often the peer is pinged; 10 s.
    pub ping_interval: Duration,
    /// How long a ping may stay unanswered before the connection is given up; 20 s.
    pub ping_timeout: Duration,
    /// How long a client may take to begin HTTP/2 after TLS; 10 s.
    pub preface_timeout: Duration,
    /// How long a dial may take, TCP, TLS and HTTP/2 together; 10 s.
    pub connect_timeout: Duration,
    /// How long a server may take to answer CONNECT; 10 s.
    pub answer_timeout: Duration,
    /// How long a pooled connection without streams is kept; 5 min.
    pub idle_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 4 * MIB,
            connection_window: 16 * MIB,
            max_frame: MIB,
            max_header_list: 64 * KIB,
            max_streams: 200,
            frames: FrameLimits {
                control: 1_000,
                resets: 6_000,
            },
            max_client_streams: 100,
            send_buffer: 64 * 1024,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            preface_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(5 * 60),
        }
    }
}

impl Settings {
    pub(crate) fn server_builder(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(self.stream_window.min(LARGEST_WINDOW))
            .initial_connection_window_size(self.connection_window.min(LARGEST_WINDOW))
            .max_frame_size(self.max_frame.clamp(FRAME_SIZES.0, FRAME_SIZES.1))
            .max_header_list_size(self.max_header_list)
            .max_concurrent_streams(self.max_streams)
            // One ztunnel's connection carries the tunnels of a whole pod: as many as may be open may
            // be given up at once without ending the rest. The crate's default is 20.
            .max_pending_accept_reset_streams(self.max_streams as usize)
            .max_send_buffer_size(self.send_buffer)
            .max_local_error_reset_streams(Some(MAX_PROVOKED_RESETS))
            .data_frame_budget(self.data_frame_budget());
        builder
    }

    pub(crate) fn client_builder(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(self.stream_window.min(LARGEST_WINDOW))
            .initial_connection_window_size(self.connection_window.min(LARGEST_WINDOW))
            .max_frame_size(self.max_frame.clamp(FRAME_SIZES.0, FRAME_SIZES.1))
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(self.send_buffer)
            .max_local_error_reset_streams(Some(MAX_PROVOKED_RESETS))
            .data_frame_budget(self.data_frame_budget())
            // Zero until the peer's SETTINGS arrive: how `connect` knows that they did.
            .initial_max_send_streams(0)
            .enable_push(false);
        builder
    }

    /// What small DATA frames may cost in memory beyond the bytes they carry, per connection.
    fn data_frame_budget(&self) -> usize {
        self.connection_window as usize / 2
    }
}

/// Resets a peer may provoke by broken frames before its connection is closed
/// (CVE-2025-8671; the h2 crate's own default is 1024).
const MAX_PROVOKED_RESETS: usize = 100;

//! The numbers of the ABI (proxy-wasm 0.2.1, and what Envoy's host adds).

/// What a host function answers. The Rust SDK knows no others than these but
/// [`Status::InvalidMemoryAccess`] and [`Status::Unimplemented`], and must not be given them for
/// anything that a filter of good faith does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    /// Of gRPC calls: no such upstream.
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

/// The answer of a host function.
pub(crate) type Answer = Result<(), Status>;

/// The answer as the module reads it.
pub(crate) fn code(answer: Answer) -> u32 {
    match answer {
        Ok(()) => Status::Ok as u32,
        Err(status) => status as u32,
    }
}

/// A buffer of the ABI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Buffer {
    RequestBody,
    ResponseBody,
    DownstreamData,
    UpstreamData,
    CallResponseBody,
    GrpcMessage,
    VmConfiguration,
    PluginConfiguration,
    ForeignArguments,
}

impl Buffer {
    pub(crate) fn from_abi(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::RequestBody,
            1 => Self::ResponseBody,
            2 => Self::DownstreamData,
            3 => Self::UpstreamData,
            4 => Self::CallResponseBody,
            5 => Self::GrpcMessage,
            6 => Self::VmConfiguration,
            7 => Self::PluginConfiguration,
            8 => Self::ForeignArguments,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// A map of the ABI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Map {
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
    GrpcInitialMetadata,
    GrpcTrailingMetadata,
    CallResponseHeaders,
    CallResponseTrailers,
}

impl Map {
    pub(crate) fn from_abi(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::RequestHeaders,
            1 => Self::RequestTrailers,
            2 => Self::ResponseHeaders,
            3 => Self::ResponseTrailers,
            4 => Self::GrpcInitialMetadata,
            5 => Self::GrpcTrailingMetadata,
            6 => Self::CallResponseHeaders,
            7 => Self::CallResponseTrailers,
            _ => return Err(Status::BadArgument),
        })
    }
}

/// What a callback on headers, bodies or trailers answers, as Envoy reads it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Action(pub(crate) u32);

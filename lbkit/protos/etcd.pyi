from collections.abc import Iterable
from typing import Literal

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class KeyValue(Message):
    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    value: bytes
    lease: int
    def __init__(
        self,
        *,
        key: bytes = ...,
        create_revision: int = ...,
        mod_revision: int = ...,
        version: int = ...,
        value: bytes = ...,
        lease: int = ...,
    ) -> None: ...

class Event(Message):
    PUT: int
    DELETE: int
    type: int
    kv: KeyValue
    prev_kv: KeyValue
    def __init__(
        self, *, type: int = ..., kv: KeyValue | None = ..., prev_kv: KeyValue | None = ...
    ) -> None: ...

class ResponseHeader(Message):
    cluster_id: int
    member_id: int
    revision: int
    raft_term: int
    def __init__(
        self, *, cluster_id: int = ..., member_id: int = ..., revision: int = ..., raft_term: int = ...
    ) -> None: ...

class RangeRequest(Message):
    NONE: int
    ASCEND: int
    DESCEND: int
    KEY: int
    VERSION: int
    CREATE: int
    MOD: int
    VALUE: int
    key: bytes
    range_end: bytes
    limit: int
    revision: int
    sort_order: int
    sort_target: int
    serializable: bool
    keys_only: bool
    count_only: bool
    min_mod_revision: int
    max_mod_revision: int
    min_create_revision: int
    max_create_revision: int
    def __init__(
        self,
        *,
        key: bytes = ...,
        range_end: bytes = ...,
        limit: int = ...,
        revision: int = ...,
        sort_order: int = ...,
        sort_target: int = ...,
        serializable: bool = ...,
        keys_only: bool = ...,
        count_only: bool = ...,
        min_mod_revision: int = ...,
        max_mod_revision: int = ...,
        min_create_revision: int = ...,
        max_create_revision: int = ...,
    ) -> None: ...

class RangeResponse(Message):
    header: ResponseHeader
    kvs: RepeatedCompositeFieldContainer[KeyValue]
    more: bool
    count: int
    def __init__(
        self,
        *,
        header: ResponseHeader | None = ...,
        kvs: Iterable[KeyValue] = ...,
        more: bool = ...,
        count: int = ...,
    ) -> None: ...

class PutRequest(Message):
    key: bytes
    value: bytes
    lease: int
    prev_kv: bool
    ignore_value: bool
    ignore_lease: bool
    def __init__(
        self,
        *,
        key: bytes = ...,
        value: bytes = ...,
        lease: int = ...,
        prev_kv: bool | None = ...,
        ignore_value: bool = ...,
        ignore_lease: bool = ...,
    ) -> None: ...

class PutResponse(Message):
    header: ResponseHeader
    prev_kv: KeyValue
    def __init__(self, *, header: ResponseHeader | None = ..., prev_kv: KeyValue | None = ...) -> None: ...

class DeleteRangeRequest(Message):
    key: bytes
    range_end: bytes
    prev_kv: bool
    def __init__(self, *, key: bytes = ..., range_end: bytes = ..., prev_kv: bool | None = ...) -> None: ...

class DeleteRangeResponse(Message):
    header: ResponseHeader
    deleted: int
    prev_kvs: RepeatedCompositeFieldContainer[KeyValue]
    def __init__(
        self, *, header: ResponseHeader | None = ..., deleted: int = ..., prev_kvs: Iterable[KeyValue] = ...
    ) -> None: ...

class RequestOp(Message):
    request_range: RangeRequest
    request_put: PutRequest
    request_delete_range: DeleteRangeRequest
    request_txn: TxnRequest
    def __init__(
        self,
        *,
        request_range: RangeRequest | None = ...,
        request_put: PutRequest | None = ...,
        request_delete_range: DeleteRangeRequest | None = ...,
        request_txn: TxnRequest | None = ...,
    ) -> None: ...
    def WhichOneof(
        self, oneof_group: Literal["request"]
    ) -> Literal["request_range", "request_put", "request_delete_range", "request_txn"] | None: ...

class ResponseOp(Message):
    response_range: RangeResponse
    response_put: PutResponse
    response_delete_range: DeleteRangeResponse
    response_txn: TxnResponse
    def __init__(
        self,
        *,
        response_range: RangeResponse | None = ...,
        response_put: PutResponse | None = ...,
        response_delete_range: DeleteRangeResponse | None = ...,
        response_txn: TxnResponse | None = ...,
    ) -> None: ...
    def WhichOneof(
        self, oneof_group: Literal["response"]
    ) -> Literal["response_range", "response_put", "response_delete_range", "response_txn"] | None: ...

class Compare(Message):
    EQUAL: int
    GREATER: int
    LESS: int
    NOT_EQUAL: int
    VERSION: int
    CREATE: int
    MOD: int
    VALUE: int
    LEASE: int
    result: int
    target: int
    key: bytes
    version: int
    create_revision: int
    mod_revision: int
    value: bytes
    lease: int
    range_end: bytes
    def __init__(
        self,
        *,
        result: int = ...,
        target: int = ...,
        key: bytes = ...,
        version: int = ...,
        create_revision: int = ...,
        mod_revision: int = ...,
        value: bytes = ...,
        lease: int = ...,
        range_end: bytes = ...,
    ) -> None: ...
    def WhichOneof(
        self, oneof_group: Literal["target_union"]
    ) -> Literal["version", "create_revision", "mod_revision", "value", "lease"] | None: ...

class TxnRequest(Message):
    compare: RepeatedCompositeFieldContainer[Compare]
    success: RepeatedCompositeFieldContainer[RequestOp]
    failure: RepeatedCompositeFieldContainer[RequestOp]
    def __init__(
        self,
        *,
        compare: Iterable[Compare] = ...,
        success: Iterable[RequestOp] = ...,
        failure: Iterable[RequestOp] = ...,
    ) -> None: ...

class TxnResponse(Message):
    header: ResponseHeader
    succeeded: bool
    responses: RepeatedCompositeFieldContainer[ResponseOp]
    def __init__(
        self,
        *,
        header: ResponseHeader | None = ...,
        succeeded: bool = ...,
        responses: Iterable[ResponseOp] = ...,
    ) -> None: ...

class CompactionRequest(Message):
    revision: int
    physical: bool
    def __init__(self, *, revision: int = ..., physical: bool = ...) -> None: ...

class CompactionResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...

class WatchRequest(Message):
    create_request: WatchCreateRequest
    cancel_request: WatchCancelRequest
    progress_request: WatchProgressRequest
    def __init__(
        self,
        *,
        create_request: WatchCreateRequest | None = ...,
        cancel_request: WatchCancelRequest | None = ...,
        progress_request: WatchProgressRequest | None = ...,
    ) -> None: ...
    def WhichOneof(
        self, oneof_group: Literal["request_union"]
    ) -> Literal["create_request", "cancel_request", "progress_request"] | None: ...

class WatchCreateRequest(Message):
    NOPUT: int
    NODELETE: int
    key: bytes
    range_end: bytes
    start_revision: int
    progress_notify: bool
    filters: RepeatedScalarFieldContainer[int]
    prev_kv: bool
    watch_id: int
    fragment: bool
    def __init__(
        self,
        *,
        key: bytes = ...,
        range_end: bytes = ...,
        start_revision: int = ...,
        progress_notify: bool = ...,
        filters: Iterable[int] = ...,
        prev_kv: bool | None = ...,
        watch_id: int = ...,
        fragment: bool = ...,
    ) -> None: ...

class WatchCancelRequest(Message):
    watch_id: int
    def __init__(self, *, watch_id: int = ...) -> None: ...

class WatchProgressRequest(Message): ...

class WatchResponse(Message):
    header: ResponseHeader
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    fragment: bool
    events: RepeatedCompositeFieldContainer[Event]
    def __init__(
        self,
        *,
        header: ResponseHeader | None = ...,
        watch_id: int = ...,
        created: bool = ...,
        canceled: bool = ...,
        compact_revision: int = ...,
        cancel_reason: str = ...,
        fragment: bool = ...,
        events: Iterable[Event] = ...,
    ) -> None: ...

class LeaseGrantRequest(Message):
    TTL: int
    ID: int
    def __init__(self, *, TTL: int = ..., ID: int = ...) -> None: ...

class LeaseGrantResponse(Message):
    header: ResponseHeader
    ID: int
    TTL: int
    error: str
    def __init__(
        self, *, header: ResponseHeader | None = ..., ID: int = ..., TTL: int = ..., error: str = ...
    ) -> None: ...

class LeaseRevokeRequest(Message):
    ID: int
    def __init__(self, *, ID: int = ...) -> None: ...

class LeaseRevokeResponse(Message):
    header: ResponseHeader
    def __init__(self, *, header: ResponseHeader | None = ...) -> None: ...

class LeaseKeepAliveRequest(Message):
    ID: int
    def __init__(self, *, ID: int = ...) -> None: ...

class LeaseKeepAliveResponse(Message):
    header: ResponseHeader
    ID: int
    TTL: int
    def __init__(self, *, header: ResponseHeader | None = ..., ID: int = ..., TTL: int = ...) -> None: ...

class LeaseTimeToLiveRequest(Message):
    ID: int
    keys: bool
    def __init__(self, *, ID: int = ..., keys: bool = ...) -> None: ...

class LeaseTimeToLiveResponse(Message):
    header: ResponseHeader
    ID: int
    TTL: int
    grantedTTL: int
    keys: RepeatedScalarFieldContainer[bytes]
    def __init__(
        self,
        *,
        header: ResponseHeader | None = ...,
        ID: int = ...,
        TTL: int = ...,
        grantedTTL: int = ...,
        keys: Iterable[bytes] = ...,
    ) -> None: ...

class LeaseLeasesRequest(Message): ...

class LeaseStatus(Message):
    ID: int
    def __init__(self, *, ID: int = ...) -> None: ...

class LeaseLeasesResponse(Message):
    header: ResponseHeader
    leases: RepeatedCompositeFieldContainer[LeaseStatus]
    def __init__(
        self, *, header: ResponseHeader | None = ..., leases: Iterable[LeaseStatus] = ...
    ) -> None: ...

class Member(Message):
    ID: int
    name: str
    peerURLs: RepeatedScalarFieldContainer[str]
    clientURLs: RepeatedScalarFieldContainer[str]
    isLearner: bool
    def __init__(
        self,
        *,
        ID: int = ...,
        name: str = ...,
        peerURLs: Iterable[str] = ...,
        clientURLs: Iterable[str] = ...,
        isLearner: bool = ...,
    ) -> None: ...

class MemberListRequest(Message):
    linearizable: bool
    def __init__(self, *, linearizable: bool = ...) -> None: ...

class MemberListResponse(Message):
    header: ResponseHeader
    members: RepeatedCompositeFieldContainer[Member]
    def __init__(self, *, header: ResponseHeader | None = ..., members: Iterable[Member] = ...) -> None: ...

class AlarmRequest(Message): ...

class AlarmMember(Message):
    memberID: int
    def __init__(self, *, memberID: int = ...) -> None: ...

class AlarmResponse(Message):
    header: ResponseHeader
    alarms: RepeatedCompositeFieldContainer[AlarmMember]
    def __init__(
        self, *, header: ResponseHeader | None = ..., alarms: Iterable[AlarmMember] = ...
    ) -> None: ...

class StatusRequest(Message): ...

class StatusResponse(Message):
    header: ResponseHeader
    version: str
    dbSize: int
    leader: int
    raftIndex: int
    raftTerm: int
    raftAppliedIndex: int
    errors: RepeatedScalarFieldContainer[str]
    dbSizeInUse: int
    isLearner: bool
    def __init__(
        self,
        *,
        header: ResponseHeader | None = ...,
        version: str = ...,
        dbSize: int = ...,
        leader: int = ...,
        raftIndex: int = ...,
        raftTerm: int = ...,
        raftAppliedIndex: int = ...,
        errors: Iterable[str] = ...,
        dbSizeInUse: int = ...,
        isLearner: bool = ...,
    ) -> None: ...

class AuthenticateRequest(Message):
    name: str
    password: str
    def __init__(self, *, name: str = ..., password: str = ...) -> None: ...

class AuthenticateResponse(Message):
    header: ResponseHeader
    token: str
    def __init__(self, *, header: ResponseHeader | None = ..., token: str = ...) -> None: ...

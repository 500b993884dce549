"""What servers serve: servicers' methods, and the context that those are called with."""

from lbkit.service.blocking import BlockingContext
from lbkit.service.context import ServicerContext
from lbkit.service.handlers import Handler, HandlerTable, handler_of_grpc, handlers_of_object
from lbkit.service.interceptor import ServerInterceptor, current_call

__all__ = [
    "BlockingContext",
    "Handler",
    "HandlerTable",
    "ServerInterceptor",
    "ServicerContext",
    "current_call",
    "handler_of_grpc",
    "handlers_of_object",
]

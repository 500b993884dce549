"""What servers serve: servicers' methods, and the context that those are called with."""

from lbkit.service.blocking import BlockingContext
from lbkit.service.context import ServicerContext
from lbkit.service.handlers import Handler, HandlerTable, handler_of_grpc, handlers_of_object

__all__ = [
    "BlockingContext",
    "Handler",
    "HandlerTable",
    "ServicerContext",
    "handler_of_grpc",
    "handlers_of_object",
]

from reveal_core.extraction.critics.base import NoCritic
from reveal_core.extraction.critics.chat import Chat
from reveal_core.extraction.critics.embedded import Embedded

CriticConfig = NoCritic | Embedded | Chat

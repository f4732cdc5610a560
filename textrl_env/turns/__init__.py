"""Episodes of several turns: what answers between them, and how its answers become tokens."""

from textrl_env.turns.bridge import Bridge as Bridge
from textrl_env.turns.bridge import PlainBridge as PlainBridge
from textrl_env.turns.chat_bridge import ChatBridge as ChatBridge
from textrl_env.turns.turn_env import TurnEnv as TurnEnv

"""A server as a reward, by HTTP.

remote_reward.py  RemoteReward: what is sent, in batches
connection.py     one request within its limits of time and size, tried again where that can help
answer.py         what a server answers, checked
"""

#!lua flags=allow-oom
-- Renew the leases of callbacks that are being sent.
-- @include common
-- KEYS: none
-- ARGV: 1 lease in seconds, then the task ids
-- Answer: none

local ends = now() + tonumber(ARGV[1])
for i = 2, #ARGV do
    redis.call('ZADD', SENDING, 'XX', ends, ARGV[i])
end

#!lua flags=allow-oom
-- Renew a worker's report as it is, when there is one.
-- @include common
-- KEYS: 1 the worker's report
-- ARGV: 1 seconds until it expires, 2 host
-- Answer: none

if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HSET', KEYS[1], 'seen:' .. ARGV[2], now())
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end

#!lua flags=allow-oom
-- Requeue all that an owner has claimed, and forget its lease: it stops, or its process has died.
-- @include requeue
-- @include owners
-- KEYS: none
-- ARGV: 1 owner, 2 deliveries until a task is a dead letter, 3 seconds to keep a result, then the ids of the
--       tasks that the process may have died of
-- Answer: {id, reason, ...} of tasks that became dead letters

local died, ids = {}, {}
for i = 4, #ARGV do
    died[ARGV[i]] = true
end
local claims = redis.call('HGETALL', OWNERS)
for i = 1, #claims, 2 do
    if owner_of(claims[i + 1]) == ARGV[1] then
        ids[#ids + 1] = claims[i]
    end
end
requeue_in_order(ids, died, tonumber(ARGV[2]), ARGV[3])
redis.call('ZREM', LEASES, ARGV[1])
announce_completions()
return dead_lettered

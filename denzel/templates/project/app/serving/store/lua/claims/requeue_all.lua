#!lua flags=allow-oom
-- Requeue all that an owner has claimed, and forget its lease: it stops, or its process has died.
-- @include requeue
-- KEYS: none
-- ARGV: 1 owner, 2 deliveries until a task is a dead letter, 3 seconds to keep a result, then the delivery tags of the
--       messages that the process may have died of
-- Answer: {id, reason, ...} of tasks that became dead letters

local died, tags = {}, {}
for i = 4, #ARGV do
    died[ARGV[i]] = true
end
local claims = redis.call('HGETALL', OWNERS)
for i = 1, #claims, 2 do
    if claims[i + 1] == ARGV[1] then
        tags[#tags + 1] = claims[i]
    end
end
requeue_in_order(tags, function(tag) return died[tag] end, tonumber(ARGV[2]), ARGV[3])
redis.call('ZREM', LEASES, ARGV[1])
announce_completions()
return dead_lettered

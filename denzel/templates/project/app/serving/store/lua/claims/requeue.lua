#!lua flags=allow-oom
-- Requeue some messages that a living owner has claimed in one epoch. One whose claim has passed to another owner
-- meanwhile, or that this owner has claimed anew in a later epoch, is left alone.
-- @include requeue
-- KEYS: none
-- ARGV: 1 holder, 2 deliveries until a task is a dead letter, 3 seconds to keep a result, then the task ids
-- Answer: {id, reason, ...} of tasks that became dead letters

local ids = {}
for i = 4, #ARGV do
    if redis.call('HGET', OWNERS, ARGV[i]) == ARGV[1] then
        ids[#ids + 1] = ARGV[i]
    end
end
requeue_in_order(ids, {}, tonumber(ARGV[2]), ARGV[3])
announce_completions()
return dead_lettered

#!lua flags=allow-oom
-- Remove what a worker's processes on one host have reported. Other hosts' fields stay.
-- @include worker_state
-- KEYS: 1 the worker's report, 2 the set of workers
-- ARGV: 1 worker, 2 host
-- Answer: none

local report, workers, name, own = KEYS[1], KEYS[2], ARGV[1], 'process:' .. ARGV[2] .. '/'
local others = false
for _, field in ipairs(redis.call('HKEYS', report)) do
    if string.sub(field, 1, #own) == own then
        redis.call('HDEL', report, field)
    elseif string.find(field, '^process:') then
        others = true
    end
end
if others then
    merge_state(report)
else
    redis.call('DEL', report)
    redis.call('SREM', workers, name)
end

#!lua flags=allow-oom
-- Renew a worker's report: which of its processes are up, which load the model, and how others ended. A process that
-- the worker takes for loading keeps its own report: that it failed, or is just up.
-- @include worker_state
-- KEYS: 1 the worker's report, 2 the set of workers
-- ARGV: 1 seconds until the report expires, 2 worker, 3 host, 4 and 5 ids of the processes that are up and that load,
--       as JSON lists, 6 causes by id of processes that ended, as JSON; '' is the cause of all others
-- Answer: none

local report, workers = KEYS[1], KEYS[2]
local ttl, name, host = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local up, loading, causes = cjson.decode(ARGV[4]), cjson.decode(ARGV[5]), cjson.decode(ARGV[6])
local own, time, alive = 'process:' .. host .. '/', now(), {}
redis.call('HSET', report, 'seen:' .. host, time)
for _, pid in ipairs(up) do
    alive[own .. pid] = true
    redis.call('HSET', report, own .. pid, 'UP')
    redis.call('HDEL', report, own .. 'died')
end
for _, pid in ipairs(loading) do
    alive[own .. pid] = true
    redis.call('HSETNX', report, own .. pid, 'LOADING')
end
for _, field in ipairs(redis.call('HKEYS', report)) do
    local whose, pid = string.match(field, '^process:(.*)/(.*)$')
    if whose == host and pid ~= 'died' and not alive[field] then
        if redis.call('HGET', report, field) == 'LOADING' then
            redis.call('HSET', report, own .. 'died', 'ERROR ' .. (causes[pid] or causes['']))
        end
        redis.call('HDEL', report, field)
    elseif whose and time - tonumber(redis.call('HGET', report, 'seen:' .. whose) or 0) > ttl then
        redis.call('HDEL', report, field)
    end
end
redis.call('SADD', workers, name)
merge_state(report)
redis.call('EXPIRE', report, ttl)

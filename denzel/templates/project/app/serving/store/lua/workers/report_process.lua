#!lua flags=allow-oom
-- Report the state of one process.
-- @include worker_state
-- KEYS: 1 the worker's report
-- ARGV: 1 seconds until the report expires, 2 host, 3 process id, 4 state, 5 cause,
--       6 what its load_model warned of, as JSON, empty for nothing
-- Answer: none

local report, ttl, host, pid, state, cause = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
redis.call('HSET', report, 'process:' .. host .. '/' .. pid, state .. ' ' .. cause, 'seen:' .. host, now())
redis.call('HSET', report, 'warnings', ARGV[6])
merge_state(report)
redis.call('EXPIRE', report, ttl)

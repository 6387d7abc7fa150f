#!lua flags=allow-oom
-- Note that a worker's main process loads the model itself; a note that is there already is that of a death.
-- KEYS: 1 the worker's notes of preloading
-- ARGV: 1 host
-- Answer: none

if redis.call('HSETNX', KEYS[1], ARGV[1], 'LOADING') == 0 then
    redis.call('HSET', KEYS[1], ARGV[1], 'DIED')
end

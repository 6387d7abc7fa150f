#!lua flags=allow-oom
-- Drop callbacks whose record has expired, some at a time.
-- KEYS: none
-- ARGV: 1 cursor of ZSCAN, 2 number of entries to look at
-- Answer: the next cursor; '0' at the end

local seen = redis.call('ZSCAN', UNDELIVERED, ARGV[1], 'COUNT', ARGV[2])
for i = 1, #seen[2], 2 do
    if redis.call('EXISTS', TASK .. seen[2][i]) == 0 then
        redis.call('ZREM', UNDELIVERED, seen[2][i])
    end
end
return seen[1]

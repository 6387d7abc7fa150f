#!lua flags=allow-oom
-- Renew the leases of a host's living owners. Requeue what its other owners have claimed, which are dead; what living
-- owners claimed in earlier epochs; and what owners on other hosts have whose lease is over. After a gap without
-- renewals, as Redis or all workers were away, every owner gets another lease to renew first. Without any claims, no
-- lease is written.
-- @include requeue
-- @include owners
-- KEYS: none
-- ARGV: 1 prefix of the owners on this host, 2 lease in seconds, 3 deliveries until a task is a dead letter, 4 seconds
--       to keep a result, 5 the epochs of living owners as JSON, then the ids of tasks that run
-- Answer: {ids of the tasks that run and were cancelled, {id, reason, ...} of tasks that became dead letters}

local host, lease, max_deliveries, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local living = cjson.decode(ARGV[5])
local time = now()

local function renew_all()
    for _, owner in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
        redis.call('ZADD', LEASES, time, owner)
    end
end

local function is_dead(owner)
    if string.sub(owner, 1, #host) == host then
        return true
    end
    local renewed = redis.call('ZSCORE', LEASES, owner)
    if not renewed then
        redis.call('ZADD', LEASES, time, owner)
        return false
    end
    return time - tonumber(renewed) > lease
end

local claims = redis.call('HGETALL', OWNERS)
if #claims > 0 then
    local last = tonumber(redis.call('GET', LAST_RECLAIM) or 0)
    -- Also when the clock was set back.
    if time - last > lease / 2 or time < last then
        renew_all()
    end
    redis.call('SET', LAST_RECLAIM, time)
    local lost, died = {}, {}
    for i = 1, #claims, 2 do
        local owner, epoch = owner_of(claims[i + 1])
        if living[owner] then
            redis.call('ZADD', LEASES, time, owner)
            if epoch < living[owner] then
                lost[#lost + 1] = claims[i]
            end
        elseif is_dead(owner) then
            lost[#lost + 1], died[claims[i]] = claims[i], true
        end
    end
    requeue_in_order(lost, died, max_deliveries, ttl)
    redis.call('ZREMRANGEBYSCORE', LEASES, '-inf', time - 10 * lease)
end

local cancelled = {}
for i = 6, #ARGV do
    if redis.call('HGET', TASK .. ARGV[i], 'status') == 'REVOKED' then
        table.insert(cancelled, ARGV[i])
    end
end
announce_completions()
return {cancelled, dead_lettered}

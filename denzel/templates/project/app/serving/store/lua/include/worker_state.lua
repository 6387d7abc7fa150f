-- A worker's report: a hash with `state` and `cause`, and a field for each process from which these are made,
-- `process:<host>/<pid>`, as the same worker may run on several hosts (containers). Each host renews its own fields
-- and `seen:<host>`, the time of that; those of a host that went silent are dropped.
-- @include common

local function merge_state(report)
    local state, cause = 'LOADING', ''
    local fields = redis.call('HGETALL', report)
    for i = 1, #fields, 2 do
        if string.find(fields[i], '^process:') then
            local process_state, process_cause = string.match(fields[i + 1], '^(%u+) ?(.*)$')
            if process_state == 'UP' or (process_state == 'ERROR' and state ~= 'UP') then
                state, cause = process_state, process_cause
            end
        end
    end
    redis.call('HSET', report, 'state', state, 'cause', cause)
end

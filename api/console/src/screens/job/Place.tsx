import type { QueuePlace } from "../../api/client";
import { useNow } from "../../components/Time";
import { grounds, standing } from "../../compute/queue";

/** Where a job stands in the queue, when it is expected to start, and what that rests on. */
export function Place({ place }: { place: QueuePlace }) {
  const now = useNow();
  return (
    <div>
      {standing(place, now)} {grounds(place)}
    </div>
  );
}

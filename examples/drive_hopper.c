/* Drives Gymnasium's Hopper by a policy in C, without Python.
 *   epvf policy export RUN --out hopper.c
 *   cc -O2 -I$MUJOCO/include drive_hopper.c hopper.c $MUJOCO/libmujoco.so.* -lm -o drive_hopper
 *   ./drive_hopper hopper.xml 1000 */
#include <mujoco/mujoco.h>
#include <stdio.h>
#include <stdlib.h>

#include "hopper.h"

int main(int argc, char **argv)
{
    char error[500] = "give a model and a number of steps";
    mjModel *m = argc == 3 ? mj_loadXML(argv[1], NULL, error, sizeof error) : NULL;
    if (!m)
        return fprintf(stderr, "%s\n", error), 1;
    mjData *d = mj_makeData(m);
    float observation[HOPPER_OBSERVATIONS], action[HOPPER_ACTIONS];
    for (int step = 0; step < atoi(argv[2]); step++) {
        for (int i = 1; i < m->nq; i++) /* all positions but where it is, as hopper.h says */
            observation[i - 1] = (float)d->qpos[i];
        for (int i = 0; i < m->nv; i++)
            observation[m->nq - 1 + i] = (float)mju_clip(d->qvel[i], -10.0, 10.0);
        hopper_act(observation, action);
        for (int i = 0; i < m->nu; i++)
            d->ctrl[i] = action[i];
        for (int i = 0; i < 4; i++) /* control_seconds / timestep */
            mj_step(m, d);
        printf("%.9g %.9g\n", d->qpos[0], d->qpos[1]);
    }
    mj_deleteData(d);
    mj_deleteModel(m);
    return 0;
}

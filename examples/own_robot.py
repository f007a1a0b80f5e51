"""A robot of one's own in twenty lines: a pole on a cart, to be held upright.

    epvf train examples/own_robot.py:make --iterations 40
    epvf play RUN

`model` may be the path of an MJCF file, its text, a `mujoco.MjSpec` or a `mujoco.MjModel`. The
formulas are functions of one state; they run on MuJoCo's C engine (`--backend native`) and in JAX
(`mjx`, `lanes`, `warp`), with V(θ), V(s, θ), evolution strategies, PPO and SAC.
"""

import epvf

CART = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <light pos="0 -2 2" dir="0 1 -1"/>
    <geom type="plane" size="3 1 .1" pos="0 0 -.1" contype="0" conaffinity="0" rgba=".8 .9 .8 1"/>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0" limited="true" range="-1 1"/>
      <geom type="box" size=".1 .06 .04" mass="1" contype="0" conaffinity="0"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" damping=".01"/>
        <geom type="capsule" fromto="0 0 0 0 0 .6" size=".02" mass=".2" rgba=".9 .4 .3 1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="slide" gear="1" ctrllimited="true" ctrlrange="-10 10"/></actuator>
</mujoco>
"""


def make() -> object:
    """What `epvf train examples/own_robot.py:make` calls."""
    return epvf.MujocoTask(
        CART,
        observe=lambda s: (s.qpos, s.qvel),  # cart (m), pole (rad), and their velocities
        reward=lambda s: 1.0 - s.qpos[1] ** 2 - 0.1 * s.qpos[0] ** 2,
        terminated=lambda s: abs(s.qpos[1]) > 0.5,
        starts=0.05,
        frame_skip=2,
        episode_length=250,
    )


if __name__ == "__main__":
    config = epvf.preset("examples/own_robot.py:make", "debug")
    result = epvf.train(config)
    print(f"{result.records[-1]['rollout/episode_return']:.2f} of at most 250")
